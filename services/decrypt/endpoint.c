/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include "common/macros.h"
#include "common/units.h"
#include "tbenc/engine.h"

#define ENDPOINT_EVENTS 64
#define ENDPOINT_TICK_MS 500
#define ENDPOINT_WAIT_MS 200

unsigned tb_endpoint_readers(void)
{
    return tb_weights_threads();
}

static int endpoint_worker_init(struct endpoint_worker *w, struct tb_endpoint *e, unsigned number)
{
    struct epoll_event inbox = {.events = EPOLLIN}; /* data.ptr NULL */
    int p[2];

    *w = (struct endpoint_worker){.e = e, .number = number, .epoll_fd = epoll_create1(EPOLL_CLOEXEC)};
    if (w->epoll_fd < 0 || pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    memcpy(w->inbox, p, sizeof(p));
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, w->inbox[0], &inbox) < 0 ? -errno : 0;
}

int tb_endpoint_init(struct tb_endpoint *e, const uint8_t *manifest_sha256, struct tbenc_error *err)
{
    int r = s3_bucket_init(&e->bucket, e->weights->files, manifest_sha256, tb_now_realtime_us());

    (void)pthread_mutex_init(&e->lock, NULL);
    (void)pthread_cond_init(&e->waits, NULL);
    for (; r == 0 && e->n_workers < tb_endpoint_readers(); e->n_workers++)
        r = endpoint_worker_init(&e->workers[e->n_workers], e, e->n_workers);
    return r < 0 ? tbenc_fail(err, r, "cannot set up the endpoint: %s", strerror(-r)) : 0;
}

/* -- new connections ------------------------------------------------------------------------------------- */
/* A pipe that is full has word for its worker already; a descriptor is never more than there is room for. */
static bool worker_post(struct endpoint_worker *w, int what)
{
    return write(w->inbox[1], &what, sizeof(what)) == (ssize_t)sizeof(what);
}

static void endpoint_turn_away(struct tb_endpoint *e, int fd)
{
    struct s3_request *q = &e->workers[0].request; /* this is its thread */
    _cleanup_buf_ struct tb_buf out = {0};
    struct s3_body none;

    q->head = false;
    q->close = true;
    (void)s3_answer(&e->bucket, q, S3_BUSY, &out, &none);
    (void)send(fd, out.data, out.len, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)close(fd);
}

/* Not all that wait: who connects on and on would keep the worker from those it has, and from its end. */
static void endpoint_accept(struct tb_endpoint *e)
{
    int fd;

    for (unsigned n = 0; n < ENDPOINT_EVENTS; n++) {
        struct endpoint_worker *least = &e->workers[0];
        unsigned all = 0;

        fd = accept4(e->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        for (unsigned i = 0; i < e->n_workers; i++) {
            all += atomic_load(&e->workers[i].n_conns);
            if (atomic_load(&e->workers[i].n_conns) < atomic_load(&least->n_conns))
                least = &e->workers[i];
        }
        if (all >= ENDPOINT_CONNECTIONS) {
            endpoint_turn_away(e, fd);
            continue;
        }
        atomic_fetch_add(&least->n_conns, 1);
        if (!worker_post(least, fd)) {
            atomic_fetch_sub(&least->n_conns, 1);
            (void)close(fd);
        }
    }
}

/* -- threads --------------------------------------------------------------------------------------------- */
/* true: bytes may have come. */
static bool worker_read_inbox(struct endpoint_worker *w)
{
    bool look = false;
    int what;

    while (read(w->inbox[0], &what, sizeof(what)) == (ssize_t)sizeof(what)) {
        if (what == ENDPOINT_LOOK)
            look = true;
        else
            endpoint_conn_add(w, what);
    }
    return look;
}

static void *endpoint_work(void *arg)
{
    struct endpoint_worker *w = arg;
    struct epoll_event ev[ENDPOINT_EVENTS];
    uint64_t swept_us = tb_now_monotonic_us();

    while (!atomic_load(&w->e->revoked)) {
        int n = epoll_wait(w->epoll_fd, ev, ENDPOINT_EVENTS, ENDPOINT_TICK_MS);
        bool inbox = false;

        for (int i = 0; i < n && !atomic_load(&w->e->revoked); i++) {
            if (ev[i].data.ptr == w->e)
                endpoint_accept(w->e);
            else if (ev[i].data.ptr)
                endpoint_conn_step(w, ev[i].data.ptr, ev[i].events);
            else
                inbox = true;
        }
        /* After the events: each may be of a connection that is gone then. */
        if (inbox && worker_read_inbox(w))
            endpoint_conns_look(w);
        if (tb_now_monotonic_us() - swept_us >= ENDPOINT_TICK_MS * 1000ULL) {
            endpoint_conns_sweep(w);
            swept_us = tb_now_monotonic_us();
        }
    }
    endpoint_conns_cut(w);
    return NULL;
}

/* Tells the workers when bytes came, as long as somebody waits for some. */
static void *endpoint_watch(void *arg)
{
    struct tb_endpoint *e = arg;
    const struct tb_ciphertext *c = tb_weights_coming(e->weights);

    while (!atomic_load(&e->revoked)) {
        (void)pthread_mutex_lock(&e->lock);
        while (atomic_load(&e->n_waits) == 0 && !atomic_load(&e->revoked))
            (void)pthread_cond_wait(&e->waits, &e->lock);
        (void)pthread_mutex_unlock(&e->lock);
        c->wait(c->ctx, ENDPOINT_WAIT_MS);
        for (unsigned i = 0; i < e->n_workers; i++)
            (void)worker_post(&e->workers[i], ENDPOINT_LOOK);
    }
    return NULL;
}

int tb_endpoint_start(struct tb_endpoint *e)
{
    struct epoll_event on_listener = {.events = EPOLLIN, .data.ptr = e};
    int r = 0;

    for (; r == 0 && e->n_started < e->n_workers; e->n_started += r == 0)
        r = pthread_create(&e->workers[e->n_started].id, NULL, endpoint_work, &e->workers[e->n_started]);
    if (r == 0 && tb_weights_coming(e->weights)) {
        r = pthread_create(&e->watch, NULL, endpoint_watch, e);
        e->watched = r == 0;
    }
    if (r != 0)
        return -r;
    return epoll_ctl(e->workers[0].epoll_fd, EPOLL_CTL_ADD, e->listener, &on_listener) < 0 ? -errno : 0;
}

void tb_endpoint_revoke(struct tb_endpoint *e)
{
    atomic_store(&e->revoked, true);
    (void)pthread_mutex_lock(&e->lock);
    (void)pthread_cond_broadcast(&e->waits);
    (void)pthread_mutex_unlock(&e->lock);
    for (unsigned i = 0; i < e->n_started; i++)
        (void)worker_post(&e->workers[i], ENDPOINT_LOOK);
    tb_weights_revoke(e->weights);
    for (; e->n_started > 0; e->n_started--)
        (void)pthread_join(e->workers[e->n_started - 1].id, NULL);
    if (e->watched) /* it looks at the ciphertext, which is not there for much longer */
        (void)pthread_join(e->watch, NULL);
    e->watched = false;
}
