/* SPDX-License-Identifier: Apache-2.0 */
/* The connections to the runtime: those that carry a call, those that are kept. For upstream.c alone. */
#ifndef TB_PROXY_HTTP_UPSTREAM_POOL_H
#define TB_PROXY_HTTP_UPSTREAM_POOL_H

#include "proxy/http/address.h"
#include "proxy/http/upstream.h"

struct tb_upstream {
    struct tb_loop *loop;
    struct tb_address at;
    struct tb_upstream_conn *idle, *connecting; /* lists */
    size_t n_idle;
    uint64_t fresh_until_us; /* no connection is kept until then */
    struct tb_timer look;
    struct tb_call *spare; /* calls that are over, with their buffers, for the next ones */
    size_t n_spare;
    void (*on_close)(void *arg);
    void *on_close_arg;
};

/* A connection: connecting or carrying a call, or idle in the pool. Edge-triggered: can_read and can_write
 * are what is known until EAGAIN says otherwise. */
struct tb_upstream_conn {
    struct tb_source src;
    void (*late)(struct tb_upstream_conn *k);
    struct tb_upstream *u;
    struct tb_call *call;
    int fd;
    bool connected, can_read, can_write;
    bool ended;  /* the runtime has closed it, or will send no more */
    bool proven; /* it was kept and used again */
    uint64_t since_us;
    struct tb_upstream_conn **list, *prev, *next;
};

/* A new connection, or its beginning. event: something happened on it; late: it could not be made in time.
 * 0 or -errno. */
int tb_conn_open(struct tb_upstream *u, void (*event)(struct tb_source *s, uint32_t events),
                 void (*late)(struct tb_upstream_conn *k), struct tb_upstream_conn **ret);
/* It is connected now. */
void tb_conn_connected(struct tb_upstream_conn *k);
void tb_conn_close(struct tb_upstream_conn *k);
/* A kept connection, unless the runtime has closed it meanwhile; or NULL. */
struct tb_upstream_conn *tb_conn_from_pool(struct tb_upstream *u);
void tb_conn_to_pool(struct tb_upstream_conn *k);
/* The runtime has closed a kept connection. */
void tb_conn_ended_idle(struct tb_upstream_conn *k);

#endif
