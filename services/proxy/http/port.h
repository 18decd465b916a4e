/* SPDX-License-Identifier: Apache-2.0 */
/* The public port as its connections see it: what they share, and whom they tell. */
#ifndef TB_PROXY_HTTP_PORT_H
#define TB_PROXY_HTTP_PORT_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "proxy/http/loop.h"
#include "proxy/http/request.h"
#include "proxy/http/tls.h"

/* What connections read into. */
#define TB_BLOCK_SMALL (16 * 1024UL)
#define TB_BLOCK_LARGE (256 * 1024UL)

struct tb_block_list {
    struct tb_block *first;
    size_t n;
};

struct tb_connection;
struct tb_handler;

struct tb_port {
    struct tb_loop *loop;
    const struct tb_handler *handler;
    void *arg;                /* of the handler's begin() */
    const struct tb_tls *tls; /* NULL: plain HTTP */
    unsigned n_requests;      /* that are being served */
    bool draining;            /* each answer closes its connection */
    /* Who accepts the connections is told that a request has begun where there was none, and that a
     * connection is closed. */
    void (*busy)(struct tb_port *p);
    void (*closed)(struct tb_port *p, struct tb_connection *c);
    /* private to connections */
    struct tb_request request; /* the one that is being begun */
    struct tb_block_list small, large;
    time_t date_s;
    char date[48];
};

/* A block of at least size bytes, and its size; NULL: no memory. */
char *tb_port_get_block(struct tb_port *p, size_t size, size_t *ret_size);
void tb_port_put_block(struct tb_port *p, char *block, size_t size);
/* "Date: ...\r\n" */
const char *tb_port_date(struct tb_port *p);
/* Frees what it keeps. */
void tb_port_clear(struct tb_port *p);

#endif
