/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/clients.h"

#include <arpa/inet.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "proxy/exchange.h"
#include "common/units.h"

#define GONE_TIMEOUT_S 1u
#define TICK_US TB_USEC_PER_SEC

static void client_event(struct tb_source *src, uint32_t events)
{
    struct tb_client *cl = (struct tb_client *)src;

    if (!(events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
        return;
    cl->gone = true;
    /* Suspended, libmicrohttpd sees nothing. Otherwise it misses an end that came together with the last bytes it read, as its own
     * epoll is edge-triggered: it may wait no longer than this. */
    if (cl->exchange && cl->exchange->suspended) {
        tb_exchange_cancel(cl->exchange);
        tb_exchange_resume(cl->exchange);
    } else {
        MHD_set_connection_option(cl->mhd, MHD_CONNECTION_OPTION_TIMEOUT, GONE_TIMEOUT_S);
    }
}

static void print_address(const struct sockaddr *sa, char *out, size_t size)
{
    char text[INET6_ADDRSTRLEN] = "unix";
    const char *p = text;

    if (sa && sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &((const struct sockaddr_in *)sa)->sin_addr, text, sizeof(text));
    else if (sa && sa->sa_family == AF_INET6)
        inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)sa)->sin6_addr, text, sizeof(text));
    if (strncmp(p, "::ffff:", 7) == 0 && strchr(p, '.'))
        p += 7;
    snprintf(out, size, "%s", p);
}

struct tb_client *tb_client_new(struct tb_server *s, struct MHD_Connection *c)
{
    struct tb_client *cl = calloc(1, sizeof(*cl));

    if (!cl)
        return NULL;
    cl->src.fn = client_event;
    cl->mhd = c;
    cl->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    cl->idle_us = tb_now_monotonic_us();
    print_address(MHD_get_connection_info(c, MHD_CONNECTION_INFO_CLIENT_ADDRESS)->client_addr, cl->addr,
                  sizeof(cl->addr));
    if (tb_loop_add(&s->loop, cl->fd, EPOLLRDHUP | EPOLLET, &cl->src) < 0) {
        free(cl);
        return NULL;
    }
    cl->next = s->clients;
    if (s->clients)
        s->clients->prev = cl;
    s->clients = cl;
    return cl;
}

void tb_clients_refused(struct tb_server *s, unsigned status)
{
    s->unnamed.n++;
    s->unnamed.status = status;
}

static void write_unnamed(struct tb_server *s, const char *client)
{
    s->unnamed.n--;
    tb_exchange_unnamed(s, client, s->unnamed.status);
}

/* n that cannot be told whose they were. */
static void write_nobodys(struct tb_server *s, unsigned n)
{
    for (; n > 0; n--)
        write_unnamed(s, "-");
}

void tb_clients_stop(struct tb_server *s)
{
    write_nobodys(s, s->unnamed.n);
}

/* Of the connections that close in one turn of the loop, one that a request was refused on: not one that ends as it should. */
static bool was_refused(const struct tb_server *s, const struct tb_client *cl)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    if (cl->too_slow)
        return false;
    if (cl->kept)
        return !cl->gone && cl->idle_us < s->stepped_us;
    /* Somebody who only looked whether the port is open has sent nothing. */
    return !cl->gone ||
           (getsockopt(cl->fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 && info.tcpi_bytes_received > 0);
}

void tb_client_free(struct tb_server *s, struct tb_client *cl)
{
    if (s->unnamed.n > 0 && was_refused(s, cl))
        write_unnamed(s, cl->addr);
    if (cl->prev)
        cl->prev->next = cl->next;
    else
        s->clients = cl->next;
    if (cl->next)
        cl->next->prev = cl->prev;
    tb_loop_free_later(&s->loop, cl);
}

void tb_client_idle(struct tb_client *cl)
{
    cl->exchange = NULL;
    cl->kept = true;
    cl->idle_us = tb_now_monotonic_us();
    cl->slow_us = 0;
    cl->progress = 0;
}

/* libmicrohttpd has no call to end a connection; it sees the end of the socket as the client's. */
static void let_go(struct tb_client *cl)
{
    cl->too_slow = true;
    (void)shutdown(cl->fd, SHUT_RDWR);
}

static bool head_is_late(const struct tb_client *cl, uint64_t now)
{
    const struct tb_exchange *ex = cl->exchange; /* exists from the request line on */

    if (ex)
        return now - ex->start_us > TB_CLIENT_HEAD_US;
    return now - cl->idle_us > (cl->kept ? TB_CLIENT_KEPT_US : TB_CLIENT_HEAD_US);
}

/* Bytes it has sent, or has taken: what still waits in the socket is not taken. */
static int64_t moved(const struct tb_client *cl)
{
    int waiting = 0;

    if (!cl->exchange->replied)
        return (int64_t)cl->exchange->bytes_in;
    (void)ioctl(cl->fd, SIOCOUTQ, &waiting);
    return (int64_t)cl->exchange->bytes_out - waiting;
}

static bool is_slow(struct tb_client *cl, uint64_t elapsed_us)
{
    const struct tb_exchange *ex = cl->exchange;
    int64_t now = moved(cl), since = now - cl->progress;

    cl->progress = now;
    /* Suspended: the runtime is waited for, or room at it. */
    if (ex->suspended || (!ex->replied && ex->upload_ended) ||
        since >= (int64_t)(TB_CLIENT_RATE * elapsed_us / TB_USEC_PER_SEC))
        cl->slow_us -= MIN(cl->slow_us, elapsed_us);
    else
        cl->slow_us += elapsed_us;
    return cl->slow_us > TB_CLIENT_SLOW_US;
}

void tb_clients_tick(struct tb_server *s, uint64_t now_us)
{
    uint64_t elapsed = now_us - s->clients_looked_us;

    if (elapsed < TICK_US)
        return;
    s->clients_looked_us = now_us;
    write_nobodys(s, MIN(s->unnamed.n_old, s->unnamed.n));
    s->unnamed.n_old = s->unnamed.n;
    elapsed = MIN(elapsed, 2 * TICK_US); /* a loop that stood still is not their fault */
    for (struct tb_client *cl = s->clients; cl; cl = cl->next)
        if (!cl->too_slow &&
            (cl->exchange && cl->exchange->begun ? is_slow(cl, elapsed) : head_is_late(cl, now_us)))
            let_go(cl);
}
