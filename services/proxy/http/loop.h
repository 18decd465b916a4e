/* SPDX-License-Identifier: Apache-2.0 */
/* One epoll loop, one thread: listeners, clients, upstream connections, signals. libmicrohttpd's own epoll descriptor is
 * one source among the others. Everything in this room but the audit writer runs on it. */
#ifndef TB_PROXY_HTTP_LOOP_H
#define TB_PROXY_HTTP_LOOP_H

#include <stdint.h>
#include <sys/epoll.h>

struct tb_source {
    void (*fn)(struct tb_source *s, uint32_t events);
};

struct tb_loop {
    int epfd;
    void **garbage; /* freed after the batch: a later event of the same batch may still point at it */
    size_t n_garbage, garbage_cap;
};

int tb_loop_init(struct tb_loop *l);
void tb_loop_done(struct tb_loop *l);
/* Adds fd; the source stays the caller's. Closing fd removes it. 0 or -errno. */
int tb_loop_add(struct tb_loop *l, int fd, uint32_t events, struct tb_source *s);
/* Frees p when no event of the running batch can refer to it any more. */
void tb_loop_free_later(struct tb_loop *l, void *p);
/* Waits up to timeout_ms (-1: for ever) and calls the sources. 0 or -errno. */
int tb_loop_once(struct tb_loop *l, int timeout_ms);

#endif
