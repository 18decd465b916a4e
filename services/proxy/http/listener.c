/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/listener.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "common/secret.h"
#include "common/units.h"

#define ACCEPT_BATCH 4 /* in one turn: there is no time for the handshakes of more; they wait in the kernel */
#define LOOK_US TB_USEC_PER_SEC
#define LOOK_IDLE_US (5 * TB_USEC_PER_SEC) /* when there are only connections that wait for a next request */
#define RETRY_US (TB_USEC_PER_SEC / 4)     /* after descriptors or memory ran out */
#define BUCKETS 1024
/* A client that is gone without a word is noticed within two minutes. */
#define KEEPALIVE_IDLE_S 60
#define KEEPALIVE_INTERVAL_S 15
#define KEEPALIVE_PROBES 4

/* --- connections of each address ------------------------------------------------------------------------ */

struct tb_address_count {
    struct tb_address_count *next;
    struct in6_addr address;
    unsigned n;
};

static struct tb_address_count **address_bucket(struct tb_listener *l, const struct in6_addr *a)
{
    uint64_t word[2], h;

    memcpy(word, a, sizeof(word));
    h = (word[0] ^ l->address_seed) * 0x9e3779b97f4a7c15ULL;
    h = ((h ^ (h >> 32)) + word[1]) * 0xbf58476d1ce4e5b9ULL;
    return &l->address[(h >> 40) % BUCKETS];
}

/* Counts one more from a. False: there are enough. *ret: to be given back; NULL when the address is not
 * counted. */
static bool address_enter(struct tb_listener *l, const struct in6_addr *a, struct tb_address_count **ret)
{
    struct tb_address_count **bucket = address_bucket(l, a), *e = *bucket;

    *ret = NULL;
    while (e && memcmp(&e->address, a, sizeof(*a)) != 0)
        e = e->next;
    if (e && e->n >= l->max_per_address)
        return false;
    if (!e) {
        e = calloc(1, sizeof(*e));
        if (!e)
            return false;
        e->address = *a;
        e->next = *bucket;
        *bucket = e;
    }
    e->n++;
    *ret = e;
    return true;
}

static void address_leave(struct tb_listener *l, struct tb_address_count *e)
{
    struct tb_address_count **at;

    if (!e || --e->n > 0)
        return;
    for (at = address_bucket(l, &e->address); *at != e; at = &(*at)->next)
        ;
    *at = e->next;
    free(e);
}

/* What is counted as one client: an IPv4 address, or the first half of an IPv6 one. A network of 64 bits is
 * the least a subscriber gets, and one machine may take any address of it. */
static void address_mask(struct in6_addr *a)
{
    if (!IN6_IS_ADDR_V4MAPPED(a))
        memset(&a->s6_addr[8], 0, 8);
}

/* The address as text, and as it is counted. False for a unix socket's. */
static bool address_read(const struct sockaddr_storage *from, struct in6_addr *ret,
                         char text[static TB_CLIENT_ADDRESS_MAX])
{
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;

        *ret = (struct in6_addr){.s6_addr = {[10] = 0xff, [11] = 0xff}};
        memcpy(&ret->s6_addr[12], &in->sin_addr, 4);
    } else if (from->ss_family == AF_INET6) {
        *ret = ((const struct sockaddr_in6 *)from)->sin6_addr;
    } else {
        snprintf(text, TB_CLIENT_ADDRESS_MAX, "unix");
        return false;
    }
    if (IN6_IS_ADDR_V4MAPPED(ret))
        inet_ntop(AF_INET, &ret->s6_addr[12], text, TB_CLIENT_ADDRESS_MAX);
    else
        inet_ntop(AF_INET6, ret, text, TB_CLIENT_ADDRESS_MAX);
    address_mask(ret);
    return true;
}

/* --- accepting ------------------------------------------------------------------------------------------ */

static void listener_set_accepting(struct tb_listener *l, bool on)
{
    if (l->accepting == on || (on && l->port.draining))
        return;
    if (on && tb_loop_add(l->port.loop, l->fd, EPOLLIN, &l->src) < 0)
        return tb_timer_set(l->port.loop, &l->retry, tb_now_monotonic_us() + RETRY_US);
    if (!on)
        tb_loop_remove(l->port.loop, l->fd);
    l->accepting = on;
}

static void listener_retry(struct tb_timer *t)
{
    listener_set_accepting(container_of(t, struct tb_listener, retry), true);
}

static void listener_look_soon(struct tb_listener *l)
{
    if (tb_timer_is_set(&l->look) && l->look.due_us <= l->port.loop->now_us + LOOK_US)
        return;
    l->looked_us = l->port.loop->now_us;
    tb_timer_set_period(l->port.loop, &l->look, LOOK_US);
}

static void listener_add(struct tb_listener *l, int fd, const struct sockaddr_storage *from)
{
    char text[TB_CLIENT_ADDRESS_MAX];
    struct tb_address_count *counted = NULL;
    struct tb_connection *c;
    struct in6_addr address;

    if (address_read(from, &address, text) && l->max_per_address > 0 &&
        !address_enter(l, &address, &counted)) {
        tb_close(fd);
        return;
    }
    c = tb_connection_new(&l->port, fd, text);
    if (!c)
        return address_leave(l, counted);
    c->counted = counted;
    LIST_INSERT_HEAD(&l->connections, c, entry);
    l->n++;
    listener_look_soon(l);
}

static void listener_event(struct tb_source *s, uint32_t events)
{
    struct tb_listener *l = container_of(s, struct tb_listener, src);

    for (int i = 0; i < ACCEPT_BATCH; i++) {
        struct sockaddr_storage from = {0};
        socklen_t len = sizeof(from);
        int fd;

        if (l->n >= l->max)
            return listener_set_accepting(l, false);
        fd = accept4(l->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (fd >= 0) {
            listener_add(l, fd, &from);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            listener_set_accepting(l, false);
            return tb_timer_set(l->port.loop, &l->retry, tb_now_monotonic_us() + RETRY_US);
        }
    }
}

static void listener_forget(struct tb_port *p, struct tb_connection *c)
{
    struct tb_listener *l = container_of(p, struct tb_listener, port);

    LIST_REMOVE(c, entry);
    address_leave(l, c->counted);
    l->n--;
    if (!tb_timer_is_set(&l->retry))
        listener_set_accepting(l, true);
}

/* --- time ----------------------------------------------------------------------------------------------- */

static void listener_look(struct tb_timer *t)
{
    struct tb_listener *l = container_of(t, struct tb_listener, look);
    uint64_t now = tb_now_monotonic_us(), elapsed = now - l->looked_us;
    struct tb_connection *c, *next;
    bool busy = false;

    l->looked_us = now;
    elapsed = MIN(elapsed, 2 * LOOK_US); /* a loop that stood still is not their fault */
    for (c = LIST_FIRST(&l->connections); c; c = next) {
        next = LIST_NEXT(c, entry);
        busy |= !tb_connection_is_idle(c);
        tb_connection_look(c, now, elapsed);
    }
    if (!LIST_EMPTY(&l->connections))
        tb_timer_set_period(l->port.loop, &l->look, busy ? LOOK_US : LOOK_IDLE_US);
}

static void listener_busy(struct tb_port *p)
{
    listener_look_soon(container_of(p, struct tb_listener, port));
}

/* --- life ----------------------------------------------------------------------------------------------- */

/* Accepted sockets inherit these. */
static void listener_set_options(int fd)
{
    const struct {
        int level, name, value;
    } all[] = {
        {SOL_SOCKET, SO_KEEPALIVE, 1},
        {IPPROTO_TCP, TCP_NODELAY, 1},
        {IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S},
        {IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S},
        {IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++) /* a unix socket has none of them */
        (void)setsockopt(fd, all[i].level, all[i].name, &all[i].value, sizeof(all[i].value));
}

int tb_listener_start(struct tb_listener *l, int fd)
{
    int r;

    l->fd = fd;
    l->port.busy = listener_busy;
    l->port.closed = listener_forget;
    l->src.fn = listener_event;
    l->look.fn = listener_look;
    l->retry.fn = listener_retry;
    LIST_INIT(&l->connections);
    l->address = calloc(BUCKETS, sizeof(struct tb_address_count *));
    if (!l->address)
        return -ENOMEM;
    r = tb_random((uint8_t *)&l->address_seed, sizeof(l->address_seed));
    if (r < 0)
        return r;
    listener_set_options(fd);
    r = tb_loop_add(l->port.loop, fd, EPOLLIN, &l->src);
    l->accepting = r >= 0;
    return r;
}

void tb_listener_release(struct tb_listener *l)
{
    struct tb_connection *c;

    LIST_FOREACH(c, &l->connections, entry)
    if (c->held)
        tb_connection_later(c);
}

void tb_listener_drain(struct tb_listener *l)
{
    listener_set_accepting(l, false);
    l->port.draining = true;
    tb_timer_stop(l->port.loop, &l->retry);
}

void tb_listener_stop(struct tb_listener *l)
{
    if (!l->port.loop)
        return;
    tb_listener_drain(l);
    while (!LIST_EMPTY(&l->connections))
        tb_connection_close(LIST_FIRST(&l->connections), TB_END_STOPPED);
    tb_timer_stop(l->port.loop, &l->look);
    tb_port_clear(&l->port);
    free(l->address);
    l->address = NULL;
}
