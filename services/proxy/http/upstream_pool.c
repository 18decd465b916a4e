/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/upstream_pool.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common/units.h"

#define HASTY_US TB_USEC_PER_SEC /* closed so soon after an answer: not for being idle */
#define FRESH_US (60 * TB_USEC_PER_SEC)
#define FRESH_USE_US 5000ULL

/* --- connections ---------------------------------------------------------------------------------------- */

static void conn_list_add(struct tb_upstream_conn **list, struct tb_upstream_conn *k)
{
    if (!tb_timer_is_set(&k->u->look))
        tb_timer_set_period(k->u->loop, &k->u->look, TB_USEC_PER_SEC);
    k->list = list;
    k->prev = NULL;
    k->next = *list;
    if (*list)
        (*list)->prev = k;
    *list = k;
}

static void conn_list_remove(struct tb_upstream_conn *k)
{
    if (!k->list)
        return;
    if (k->prev)
        k->prev->next = k->next;
    else
        *k->list = k->next;
    if (k->next)
        k->next->prev = k->prev;
    k->list = NULL;
}

void tb_conn_close(struct tb_upstream_conn *k)
{
    if (k->list == &k->u->idle)
        k->u->n_idle--;
    conn_list_remove(k);
    k->fd = tb_close(k->fd);
    tb_loop_free_later(k->u->loop, k);
}

int tb_conn_open(struct tb_upstream *u, void (*event)(struct tb_source *s, uint32_t events),
                 void (*late)(struct tb_upstream_conn *k), struct tb_upstream_conn **ret)
{
    struct tb_upstream_conn *k = calloc(1, sizeof(*k));
    int r, one = 1;

    if (!k)
        return -ENOMEM;
    *k = (struct tb_upstream_conn){.src.fn = event, .late = late, .u = u, .since_us = u->loop->now_us};
    k->fd = socket(u->at.addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (k->fd < 0) {
        r = -errno;
        free(k);
        return r;
    }
    if (u->at.addr.ss_family != AF_UNIX)
        (void)setsockopt(k->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    r = connect(k->fd, (struct sockaddr *)&u->at.addr, u->at.addr_len) < 0 ? -errno : 0;
    if (r == 0)
        k->connected = k->can_write = true;
    else if (r != -EINPROGRESS)
        goto fail;
    r = tb_loop_add(u->loop, k->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, &k->src);
    if (r < 0)
        goto fail;
    if (!k->connected)
        conn_list_add(&u->connecting, k);
    *ret = k;
    return 0;
fail:
    tb_conn_close(k);
    return r;
}

/* The runtime has closed an idle connection. One that closes them at once and without saying so would
 * sooner or later take a POST with it, as that is on its way when the end arrives. */
void tb_conn_ended_idle(struct tb_upstream_conn *k)
{
    uint64_t now = k->u->loop->now_us;

    if (now - k->since_us < HASTY_US)
        k->u->fresh_until_us = now + FRESH_US;
    if (k->u->on_close)
        k->u->on_close(k->u->on_close_arg);
    tb_conn_close(k);
}

/* A runtime that has kept a connection before does not close it within a moment, so it need not be looked
 * at. */
static bool conn_is_fresh(const struct tb_upstream_conn *k)
{
    return k->proven && k->u->loop->now_us - k->since_us < FRESH_USE_US;
}

/* A kept connection, unless the runtime has closed it meanwhile. */
struct tb_upstream_conn *tb_conn_from_pool(struct tb_upstream *u)
{
    struct tb_upstream_conn *k;

    while ((k = u->idle)) {
        char c;

        conn_list_remove(k);
        u->n_idle--;
        if (conn_is_fresh(k) ||
            (recv(k->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))) {
            k->can_read = false;
            k->proven = true;
            return k;
        }
        tb_conn_ended_idle(k);
    }
    return NULL;
}

void tb_conn_to_pool(struct tb_upstream_conn *k)
{
    k->call = NULL;
    k->since_us = k->u->loop->now_us;
    if (k->ended)
        return tb_conn_ended_idle(k);
    if (k->u->n_idle >= TB_UPSTREAM_IDLE_MAX || k->since_us < k->u->fresh_until_us)
        return tb_conn_close(k);
    conn_list_add(&k->u->idle, k);
    k->u->n_idle++;
}

void tb_conn_connected(struct tb_upstream_conn *k)
{
    k->connected = true;
    conn_list_remove(k);
}

/* --- the pool ------------------------------------------------------------------------------------------- */

/* Ends connects that take too long and drops connections that were idle for long. Runs while there are
 * any. */
static void upstream_look(struct tb_timer *t)
{
    struct tb_upstream *u = container_of(t, struct tb_upstream, look);
    uint64_t now = tb_now_monotonic_us();
    struct tb_upstream_conn *next;

    for (struct tb_upstream_conn *k = u->idle; k; k = next) {
        next = k->next;
        if (now - k->since_us > TB_UPSTREAM_IDLE_US)
            tb_conn_close(k);
    }
    for (struct tb_upstream_conn *k = u->connecting; k; k = next) {
        next = k->next;
        if (now - k->since_us > TB_UPSTREAM_CONNECT_US)
            k->late(k);
    }
    if (u->idle || u->connecting)
        tb_timer_set_period(u->loop, t, TB_USEC_PER_SEC);
}

int tb_upstream_new(struct tb_loop *loop, const char *url, struct tb_upstream **ret)
{
    struct tb_upstream *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return -ENOMEM;
    u->loop = loop;
    u->look.fn = upstream_look;
    r = tb_address_parse(url, &u->at);
    if (r < 0) {
        free(u);
        return r;
    }
    *ret = u;
    return 0;
}

void tb_upstream_on_close(struct tb_upstream *u, void (*fn)(void *arg), void *arg)
{
    u->on_close = fn;
    u->on_close_arg = arg;
}

const char *tb_upstream_host(const struct tb_upstream *u)
{
    return u->at.host;
}
