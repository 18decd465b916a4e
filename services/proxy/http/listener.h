/* SPDX-License-Identifier: Apache-2.0 */
/* The public port: accepts connections up to a number in all and from each address, and keeps what they
 * share. */
#ifndef TB_PROXY_HTTP_LISTENER_H
#define TB_PROXY_HTTP_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <time.h>

#include "proxy/http/connection.h"
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
struct tb_address_count;

struct tb_listener {
    struct tb_loop *loop;
    const struct tb_handler *handler;
    void *arg;                /* of the handler's begin() */
    const struct tb_tls *tls; /* NULL: plain HTTP */
    unsigned max;             /* connections; more wait in the socket's queue */
    unsigned max_per_address; /* more are closed; 0: no limit */
    /* read only */
    unsigned n, n_requests; /* connections; requests that are being served */
    bool draining;          /* each answer closes its connection */
    /* private */
    struct tb_source src;
    int fd;
    bool accepting;
    LIST_HEAD(tb_connection_list, tb_connection) connections;
    struct tb_timer look, retry;
    uint64_t looked_us;
    struct tb_request request; /* the one that is being begun */
    struct tb_block_list small, large;
    struct tb_address_count **address; /* a hash table */
    uint64_t address_seed;
    time_t date_s;
    char date[48];
};

/* fd: a listening, non-blocking socket, which stays the caller's. The settings above are filled in before.
 * 0 or -errno. */
int tb_listener_start(struct tb_listener *l, int fd);
/* Accepts no more, and closes each connection behind its answer. The socket is left as it is: another
 * process may have it too. */
void tb_listener_drain(struct tb_listener *l);
/* Closes all connections and ends their requests. */
void tb_listener_stop(struct tb_listener *l);

/* --- for connection.c ----------------------------------------------------------------------------------- */

/* A block of at least size bytes, and its size; NULL: no memory. */
char *tb_listener_get_block(struct tb_listener *l, size_t size, size_t *ret_size);
void tb_listener_put_block(struct tb_listener *l, char *block, size_t size);
/* "Date: ...\r\n" */
const char *tb_listener_date(struct tb_listener *l);
/* A request has begun. */
void tb_listener_busy(struct tb_listener *l);
/* A connection is closed. */
void tb_listener_forget(struct tb_listener *l, struct tb_connection *c);

#endif
