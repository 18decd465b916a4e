/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of clients: what is known of each, and which are let go for being too slow. A client that trickles its request, or does
 * not take its answer, holds memory and a descriptor; one whose runtime is slow does not count as slow. */
#ifndef TB_PROXY_CLIENTS_H
#define TB_PROXY_CLIENTS_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/http/loop.h"

#define TB_CLIENT_HEAD_US                                                                                    \
    15000000ULL /* for a head, from the connection's or the request line's beginning to its end */
#define TB_CLIENT_KEPT_US 75000000ULL /* for the next request line on a kept connection, trickled or not */
#define TB_CLIENT_RATE 500            /* bytes a second of body or answer; fewer is slow */
#define TB_CLIENT_SLOW_US 30000000ULL /* how long it may be slow; time at rate takes it back */

struct MHD_Connection;
struct tb_exchange;
struct tb_server;

struct tb_client {
    struct tb_source
        src; /* libmicrohttpd does not look at suspended connections, so the loop watches each for its end */
    struct MHD_Connection *mhd;
    int fd;                       /* libmicrohttpd's */
    struct tb_exchange *exchange; /* the current one or NULL */
    bool gone;                    /* it closed, or will send no more */
    bool too_slow;                /* we ended it */
    char addr[64];
    /* private */
    bool kept;        /* not its first request */
    uint64_t idle_us; /* since when a head is waited for */
    uint64_t slow_us; /* how long it has been slow */
    int64_t progress; /* bytes moved at the last look */
    struct tb_client *prev, *next;
};

/* Makes a client for a new connection and adds it to the server's list. NULL when that fails. */
struct tb_client *tb_client_new(struct tb_server *s, struct MHD_Connection *c);
/* libmicrohttpd refuses a request on one of them, and does not say which. If it was before it had read the request's first line, this is all
 * that is heard of it; the connection closes next. */
void tb_clients_refused(struct tb_server *s, unsigned status);
/* The connection is closed. */
void tb_client_free(struct tb_server *s, struct tb_client *cl);
/* An exchange has ended; the next head is waited for. */
void tb_client_idle(struct tb_client *cl);
/* Looks at all of them once a second. */
void tb_clients_tick(struct tb_server *s, uint64_t now_us);
/* All connections are closed and no more will come. */
void tb_clients_stop(struct tb_server *s);

#endif
