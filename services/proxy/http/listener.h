/* SPDX-License-Identifier: Apache-2.0 */
/* Accepts the connections of the public port, up to a number in all and from each address, and looks after
 * them. */
#ifndef TB_PROXY_HTTP_LISTENER_H
#define TB_PROXY_HTTP_LISTENER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proxy/http/connection.h"
#include "proxy/http/port.h"

struct tb_address_count;

struct tb_listener {
    struct tb_port port;      /* what its connections see of it */
    unsigned max;             /* connections; more wait in the socket's queue */
    unsigned max_per_address; /* more are closed; 0: no limit */
    /* read only */
    unsigned n; /* connections */
    /* private */
    struct tb_source src;
    int fd;
    bool accepting;
    LIST_HEAD(tb_connection_list, tb_connection) connections;
    struct tb_timer look, retry;
    uint64_t looked_us;
    struct tb_address_count **address; /* a hash table */
    uint64_t address_seed;
};

/* fd: a listening, non-blocking socket, which stays the caller's. The settings above are filled in before.
 * 0 or -errno. */
int tb_listener_start(struct tb_listener *l, int fd);
/* Asks again whether the requests that wait shall do so. */
void tb_listener_release(struct tb_listener *l);
/* Accepts no more, and closes each connection behind its answer. The socket is left as it is: another
 * process may have it too. */
void tb_listener_drain(struct tb_listener *l);
/* Closes all connections and ends their requests. */
void tb_listener_stop(struct tb_listener *l);

#endif
