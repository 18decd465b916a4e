/* SPDX-License-Identifier: Apache-2.0 */
/* One epoll loop, one thread: listeners, clients, upstream connections, signals, timers. libmicrohttpd's
 * own epoll descriptor is one source among the others. It sleeps until something is ready or due.
 * Everything in this program but the audit writer runs on it. */
#ifndef TB_PROXY_HTTP_LOOP_H
#define TB_PROXY_HTTP_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>

/* A descriptor that is waited for. Embed it; container_of() leads back. */
struct tb_source {
    void (*fn)(struct tb_source *s, uint32_t events);
};

/* Something to do once, later. Zero-initialise, set fn. */
struct tb_timer {
    void (*fn)(struct tb_timer *t);
    uint64_t due_us; /* monotonic */
    size_t place;    /* in the heap, from 1; 0: not set */
};

/* Something to do when the events at hand have been handled, before the loop waits again: what must not be
 * done from within a call that comes from elsewhere. Zero-initialise, set fn. */
struct tb_task {
    void (*fn)(struct tb_task *t);
    TAILQ_ENTRY(tb_task) entry;
    bool queued;
};

struct tb_loop {
    int epfd;
    uint64_t now_us; /* monotonic: when the events at hand came. Near enough for what lasts longer */
    TAILQ_HEAD(tb_task_list, tb_task) tasks;
    struct tb_timer **timer; /* a heap: timer[0] is due first */
    size_t n_timers, timers_cap;
    void **garbage; /* freed after the batch: a later event of the same batch may still point at it */
    size_t n_garbage, garbage_cap;
};

int tb_loop_init(struct tb_loop *l);
void tb_loop_done(struct tb_loop *l);
/* Adds fd; the source stays the caller's. Closing fd removes it. 0 or -errno. */
int tb_loop_add(struct tb_loop *l, int fd, uint32_t events, struct tb_source *s);
void tb_loop_remove(struct tb_loop *l, int fd);

/* Runs t at due_us or soon after; a timer that is set already is moved. */
void tb_timer_set(struct tb_loop *l, struct tb_timer *t, uint64_t due_us);
/* Runs t at the next multiple of the period, so that timers of one period wake the loop together. */
void tb_timer_set_period(struct tb_loop *l, struct tb_timer *t, uint64_t period_us);
void tb_timer_stop(struct tb_loop *l, struct tb_timer *t);
static inline bool tb_timer_is_set(const struct tb_timer *t)
{
    return t->place > 0;
}

void tb_loop_defer(struct tb_loop *l, struct tb_task *t);
void tb_loop_cancel(struct tb_loop *l, struct tb_task *t);

/* Frees p when no event of the running batch can refer to it any more. */
void tb_loop_free_later(struct tb_loop *l, void *p);
/* Waits until something is ready or due, or for timeout_ms (-1: for as long as it takes), and handles it.
 * 0 or -errno. */
int tb_loop_once(struct tb_loop *l, int timeout_ms);

#endif
