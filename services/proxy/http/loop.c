/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/loop.h"

#include "common/macros.h"

#define BATCH 128

int tb_loop_init(struct tb_loop *l)
{
    *l = (struct tb_loop){.epfd = epoll_create1(EPOLL_CLOEXEC)};
    return l->epfd < 0 ? -errno : 0;
}

static void collect(struct tb_loop *l)
{
    for (size_t i = 0; i < l->n_garbage; i++)
        free(l->garbage[i]);
    l->n_garbage = 0;
}

void tb_loop_done(struct tb_loop *l)
{
    collect(l);
    free(l->garbage);
    tb_close(l->epfd);
    *l = (struct tb_loop){.epfd = -1};
}

int tb_loop_add(struct tb_loop *l, int fd, uint32_t events, struct tb_source *s)
{
    struct epoll_event ev = {.events = events, .data.ptr = s};

    return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

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

    collect(l);
    n = epoll_wait(l->epfd, ev, BATCH, timeout_ms);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        struct tb_source *s = ev[i].data.ptr;

        s->fn(s, ev[i].events);
    }
    return 0;
}
