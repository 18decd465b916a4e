/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/loop.h"

#include <assert.h>

#include "common/macros.h"
#include "common/units.h"

#define BATCH 128
#define TASKS_US 200 /* for events and tasks, in each turn: one handshake, or one piece of a body */

int tb_loop_init(struct tb_loop *l)
{
    *l = (struct tb_loop){.epfd = epoll_create1(EPOLL_CLOEXEC), .now_us = tb_now_monotonic_us()};
    TAILQ_INIT(&l->tasks);
    return l->epfd < 0 ? -errno : 0;
}

static void loop_collect(struct tb_loop *l)
{
    for (size_t i = 0; i < l->n_garbage; i++)
        free(l->garbage[i]);
    l->n_garbage = 0;
}

void tb_loop_done(struct tb_loop *l)
{
    loop_collect(l);
    free(l->garbage);
    free(l->timer);
    tb_close(l->epfd);
    *l = (struct tb_loop){.epfd = -1};
}

int tb_loop_add(struct tb_loop *l, int fd, uint32_t events, struct tb_source *s)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};

    return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

void tb_loop_remove(struct tb_loop *l, int fd)
{
    (void)epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, NULL);
}

/* --- timers: a binary heap, each knowing its place ------------------------------------------------------ */

static void loop_heap_put(struct tb_loop *l, size_t i, struct tb_timer *t)
{
    l->timer[i] = t;
    t->place = i + 1;
}

/* Puts t, which belongs at i or around it, where it is not before its parent and not behind its children. */
static void loop_heap_sift(struct tb_loop *l, size_t i, struct tb_timer *t)
{
    while (i > 0 && t->due_us < l->timer[(i - 1) / 2]->due_us) {
        loop_heap_put(l, i, l->timer[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    for (;;) {
        size_t child = 2 * i + 1;

        if (child + 1 < l->n_timers && l->timer[child + 1]->due_us < l->timer[child]->due_us)
            child++;
        if (child >= l->n_timers || t->due_us <= l->timer[child]->due_us)
            break;
        loop_heap_put(l, i, l->timer[child]);
        i = child;
    }
    loop_heap_put(l, i, t);
}

void tb_timer_set(struct tb_loop *l, struct tb_timer *t, uint64_t due_us)
{
    t->due_us = due_us;
    if (t->place > 0)
        return loop_heap_sift(l, t->place - 1, t);
    if (l->n_timers == l->timers_cap) {
        size_t cap = l->timers_cap ? l->timers_cap * 2 : 16;
        struct tb_timer **timer = realloc(l->timer, cap * sizeof(*timer));

        if (!timer)
            abort(); /* a program whose timers do not run hangs: start afresh */
        l->timer = timer;
        l->timers_cap = cap;
    }
    l->n_timers++;
    loop_heap_sift(l, l->n_timers - 1, t);
}

void tb_timer_set_period(struct tb_loop *l, struct tb_timer *t, uint64_t period_us)
{
    tb_timer_set(l, t, (tb_now_monotonic_us() / period_us + 1) * period_us);
}

void tb_timer_stop(struct tb_loop *l, struct tb_timer *t)
{
    struct tb_timer *last;
    size_t i;

    if (t->place == 0)
        return;
    i = t->place - 1;
    t->place = 0;
    last = l->timer[--l->n_timers];
    if (last != t)
        loop_heap_sift(l, i, last);
}

static void loop_run_timers(struct tb_loop *l)
{
    uint64_t now = l->now_us; /* a timer that is set for now runs at the next turn */

    while (l->n_timers > 0 && l->timer[0]->due_us <= now) {
        struct tb_timer *t = l->timer[0];

        tb_timer_stop(l, t);
        t->fn(t);
    }
}

/* How long to wait: until the first timer is due, and not less. */
static int loop_wait_ms(const struct tb_loop *l, int timeout_ms)
{
    uint64_t now, ms;

    if (!TAILQ_EMPTY(&l->tasks))
        return 0;
    if (l->n_timers == 0 || timeout_ms == 0)
        return timeout_ms;
    now = tb_now_monotonic_us();
    ms = l->timer[0]->due_us <= now ? 0 : MIN((l->timer[0]->due_us - now + 999) / 1000, 3600000U);
    return timeout_ms < 0 || (uint64_t)timeout_ms > ms ? (int)ms : timeout_ms;
}

/* --- tasks ---------------------------------------------------------------------------------------------- */

void tb_loop_defer(struct tb_loop *l, struct tb_task *t)
{
    if (t->queued)
        return;
    t->queued = true;
    TAILQ_INSERT_TAIL(&l->tasks, t, entry);
}

void tb_loop_cancel(struct tb_loop *l, struct tb_task *t)
{
    if (!t->queued)
        return;
    t->queued = false;
    TAILQ_REMOVE(&l->tasks, t, entry);
}

/* In the order of their coming, and for a moment only: who has much to do defers itself again and again,
 * and between two moments the others' events are seen to. */
static void loop_run_tasks(struct tb_loop *l)
{
    struct tb_task *t;

    while ((t = TAILQ_FIRST(&l->tasks))) {
        tb_loop_cancel(l, t);
        t->fn(t);
        if (tb_now_monotonic_us() >= l->now_us + TASKS_US)
            return; /* the rest at the next turn, which does not wait */
    }
}

/* --- the loop ------------------------------------------------------------------------------------------- */

void tb_loop_free_later(struct tb_loop *l, void *p)
{
    if (l->n_garbage == l->garbage_cap) {
        size_t cap = l->garbage_cap ? l->garbage_cap * 2 : 64;
        void **g = realloc(l->garbage, cap * sizeof(*g));

        if (!g)
            return; /* leaked rather than freed under a pending event */
        l->garbage = g;
        l->garbage_cap = cap;
    }
    l->garbage[l->n_garbage++] = p;
}

int tb_loop_once(struct tb_loop *l, int timeout_ms)
{
    struct epoll_event ev[BATCH];
    int n;

    loop_collect(l);
    n = epoll_wait(l->epfd, ev, BATCH, loop_wait_ms(l, timeout_ms));
    l->now_us = tb_now_monotonic_us();
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        struct tb_source *s = ev[i].data.ptr;

        if (i + 1 < n) /* hundreds of streams do not stay in the cache from event to event */
            __builtin_prefetch(ev[i + 1].data.ptr);
        s->fn(s, ev[i].events);
    }
    loop_run_timers(l);
    loop_run_tasks(l);
    return 0;
}
