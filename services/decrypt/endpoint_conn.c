/* SPDX-License-Identifier: Apache-2.0 */
/* One connection of the endpoint: a request is read, its answer is written, a block of the model at a time,
 * and then the next. While an answer is written nothing is read. */
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/macros.h"
#include "common/units.h"
#include "decrypt/endpoint.h"

#define CONN_TURN 4 /* blocks, before others of the worker have theirs */

enum conn_state {
    CONN_READS,
    CONN_WRITES,
    CONN_WAITS, /* for bytes of the model */
    CONN_DRAINS /* the answer was the last, and was sent: closed when the client has read it */
};

struct endpoint_conn {
    struct endpoint_conn *next, **at; /* in the worker's list */
    int fd;
    enum conn_state state;
    uint32_t awaited; /* events of epoll */
    bool ended;       /* the client sends no more */
    bool close;       /* after this answer */
    uint64_t deadline_us;
    struct tb_buf in, out;
    size_t sent; /* of out */
    struct s3_body body;
};

/* -- made and closed ------------------------------------------------------------------------------------- */
static void conn_enter(struct endpoint_worker *w, struct endpoint_conn *c, enum conn_state state)
{
    static const uint32_t events[] = {
        [CONN_READS] = EPOLLIN, [CONN_WRITES] = EPOLLOUT, [CONN_WAITS] = EPOLLRDHUP, [CONN_DRAINS] = EPOLLIN};
    struct epoll_event ev = {.events = events[state], .data.ptr = c};
    struct tb_endpoint *e = w->e;

    if (c->state == CONN_WAITS && state != CONN_WAITS)
        atomic_fetch_sub(&e->n_waits, 1);
    if (c->state != CONN_WAITS && state == CONN_WAITS) {
        (void)pthread_mutex_lock(&e->lock);
        atomic_fetch_add(&e->n_waits, 1);
        (void)pthread_cond_signal(&e->waits);
        (void)pthread_mutex_unlock(&e->lock);
    }
    c->state = state;
    if (c->awaited != ev.events)
        (void)epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
    c->awaited = ev.events;
}

static void conn_body_ends(struct endpoint_worker *w, struct endpoint_conn *c)
{
    if (c->body.from < c->body.end)
        atomic_fetch_sub(&w->e->n_reads, 1);
    c->body = (struct s3_body){0};
}

static void conn_close(struct endpoint_worker *w, struct endpoint_conn *c)
{
    if (c->state == CONN_WAITS)
        atomic_fetch_sub(&w->e->n_waits, 1);
    conn_body_ends(w, c);
    *c->at = c->next;
    if (c->next)
        c->next->at = c->at;
    (void)close(c->fd);
    tb_buf_free(&c->in);
    tb_buf_free(&c->out);
    free(c);
    atomic_fetch_sub(&w->n_conns, 1);
}

/* The client gets no more of it, not even what the kernel has. */
static void conn_cut(struct endpoint_worker *w, struct endpoint_conn *c)
{
    struct linger now = {.l_onoff = 1};

    (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    conn_close(w, c);
}

void endpoint_conn_add(struct endpoint_worker *w, int fd)
{
    struct endpoint_conn *c = calloc(1, sizeof(*c));
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;

    if (!c || epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
        free(c);
        (void)close(fd);
        atomic_fetch_sub(&w->n_conns, 1);
        return;
    }
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    *c = (struct endpoint_conn){.fd = fd, .awaited = EPOLLIN, .next = w->conns, .at = &w->conns};
    c->in.max = S3_HEAD_MAX;
    c->deadline_us = tb_now_monotonic_us() + ENDPOINT_HEAD_US;
    if (c->next)
        c->next->at = &c->next;
    w->conns = c;
}

/* -- writing --------------------------------------------------------------------------------------------- */
/* With many readers each has fewer blocks decrypted ahead: half of the cache is enough for all. */
static unsigned conn_ahead(const struct endpoint_worker *w)
{
    unsigned readers = MAX(atomic_load(&w->e->n_reads), 1U);
    unsigned each = tb_weights_slots(w->e->weights) / 2 / readers;

    return MIN(MAX(each, 1U) - 1, (unsigned)ENDPOINT_FILL_AHEAD);
}

/* Counts n bytes as sent, of the text first. */
static void conn_sent(struct endpoint_worker *w, struct endpoint_conn *c, size_t n)
{
    size_t text = MIN(n, c->out.len - c->sent);
    uint64_t before = c->body.end - c->body.from;

    c->sent += text;
    c->body.from += n - text;
    c->deadline_us = tb_now_monotonic_us() + ENDPOINT_STALL_US;
    if (before > 0 && c->body.from == c->body.end)
        atomic_fetch_sub(&w->e->n_reads, 1);
}

/* A piece of the answer: 1 sent, wholly or not; 0 the socket takes no more; -EAGAIN the bytes have not come;
 * -errno it is over. */
static int conn_send(struct endpoint_worker *w, struct endpoint_conn *c)
{
    struct tb_weights *weights = w->e->weights;
    struct weights_piece p[2];
    struct iovec iov[3] = {{c->out.data + c->sent, c->out.len - c->sent}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 1};
    uint64_t end = 0;
    int n = 0;
    ssize_t k;

    if (c->body.from < c->body.end) {
        end = MIN(tb_weights_block_end(weights, c->body.file, c->body.from), c->body.end);
        end = MIN(end, c->body.from + WEIGHTS_READ_MAX);
        n = tb_weights_pin(weights, w->number, c->body.file, c->body.from, end, p);
        if (n < 0)
            return n;
    }
    for (int i = 0; i < n; i++)
        iov[m.msg_iovlen++] = (struct iovec){(void *)(p[i].slot->pt + p[i].skip), p[i].n};
    k = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0)
        k = -errno;
    if (n > 0)
        tb_weights_unpin(
            weights, c->body.file, end, conn_ahead(w), p, n,
            (struct weights_served){.bytes = k > (ssize_t)iov[0].iov_len ? (size_t)k - iov[0].iov_len : 0});
    if (k < 0)
        return k == -EAGAIN || k == -EINTR ? 0 : (int)k;
    conn_sent(w, c, (size_t)k);
    return 1;
}

static bool conn_has_more(const struct endpoint_conn *c)
{
    return c->sent < c->out.len || c->body.from < c->body.end;
}

static void conn_finish(struct endpoint_worker *w, struct endpoint_conn *c)
{
    tb_buf_free(&c->out);
    c->sent = 0;
    c->deadline_us = tb_now_monotonic_us() + (c->close ? ENDPOINT_DRAIN_US : ENDPOINT_IDLE_US);
    if (c->close)
        (void)shutdown(c->fd, SHUT_WR);
    conn_enter(w, c, c->close ? CONN_DRAINS : CONN_READS);
}

/* false: it is gone. */
static bool conn_write(struct endpoint_worker *w, struct endpoint_conn *c)
{
    int r = 1;

    for (int i = 0; r > 0 && conn_has_more(c) && i < CONN_TURN; i++)
        r = conn_send(w, c);
    if (r < 0 && r != -EAGAIN) {
        conn_cut(w, c); /* in the middle of it, so that nobody takes what came for all */
        return false;
    }
    if (conn_has_more(c))
        conn_enter(w, c, r == -EAGAIN ? CONN_WAITS : CONN_WRITES);
    else
        conn_finish(w, c);
    return true;
}

/* -- reading --------------------------------------------------------------------------------------------- */
/* 1: there is a request; 0: not yet; -errno: it is over. */
static int conn_take_request(struct endpoint_worker *w, struct endpoint_conn *c)
{
    enum s3_error e;
    size_t n;

    if (s3_request_parse(c->in.data, c->in.len, &n, &w->request, &e) < 0)
        return 0;
    tb_buf_consume(&c->in, n);
    e = s3_answer(&w->e->bucket, &w->request, e, &c->out, &c->body);
    c->close = w->request.close || e == S3_DENIED;
    if (c->body.from < c->body.end)
        atomic_fetch_add(&w->e->n_reads, 1);
    return tb_buf_error(&c->out) < 0 ? tb_buf_error(&c->out) : 1;
}

static int conn_receive(struct endpoint_conn *c)
{
    ssize_t n;

    if (c->in.len == S3_HEAD_MAX)
        return 0;
    if (tb_buf_reserve(&c->in, S3_HEAD_MAX - c->in.len) < 0)
        return -ENOMEM;
    n = recv(c->fd, c->in.data + c->in.len, S3_HEAD_MAX - c->in.len, MSG_DONTWAIT);
    c->ended |= n == 0;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (c->in.len == 0 && n > 0) /* of a request, which is to come whole from here on */
        c->deadline_us = tb_now_monotonic_us() + ENDPOINT_HEAD_US;
    c->in.len += (size_t)n;
    return 0;
}

static void conn_drain(struct endpoint_worker *w, struct endpoint_conn *c)
{
    char rest[16384];
    ssize_t n = recv(c->fd, rest, sizeof(rest), MSG_DONTWAIT); /* a piece: who sends on and on has no end */

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        conn_close(w, c);
}

/* Requests that came together are answered one after the other. */
static void conn_read(struct endpoint_worker *w, struct endpoint_conn *c)
{
    int r = conn_receive(c);

    if (r < 0)
        return conn_close(w, c);
    while (c->state == CONN_READS) {
        r = conn_take_request(w, c);
        if (r < 0 || (r == 0 && c->ended))
            return conn_close(w, c);
        if (r == 0)
            return;             /* more must come */
        c->state = CONN_WRITES; /* the socket mostly takes it at once */
        if (!conn_write(w, c))
            return;
    }
}

void endpoint_conn_step(struct endpoint_worker *w, struct endpoint_conn *c, uint32_t events)
{
    if ((events & (EPOLLERR | EPOLLHUP)) || (c->state == CONN_WAITS && (events & EPOLLRDHUP)))
        return conn_close(w, c);
    switch (c->state) {
    case CONN_READS:
        return conn_read(w, c);
    case CONN_DRAINS:
        return conn_drain(w, c);
    case CONN_WRITES:
    case CONN_WAITS:
        /* What came behind the request meanwhile is there already: nothing would tell. */
        if (conn_write(w, c) && c->state == CONN_READS && c->in.len > 0)
            conn_read(w, c);
        return;
    }
}

/* -- all of a worker ------------------------------------------------------------------------------------- */
void endpoint_conns_look(struct endpoint_worker *w)
{
    struct endpoint_conn *next;

    for (struct endpoint_conn *c = w->conns; c; c = next) {
        next = c->next;
        if (c->state == CONN_WAITS)
            endpoint_conn_step(w, c, 0);
    }
}

void endpoint_conns_sweep(struct endpoint_worker *w)
{
    uint64_t now = tb_now_monotonic_us();
    struct endpoint_conn *next;

    for (struct endpoint_conn *c = w->conns; c; c = next) {
        next = c->next;
        if (c->state != CONN_WAITS && now >= c->deadline_us)
            conn_cut(w, c);
    }
}

void endpoint_conns_cut(struct endpoint_worker *w)
{
    while (w->conns)
        conn_cut(w, w->conns);
}
