/* SPDX-License-Identifier: Apache-2.0 */
/* Connections of the health port. There are few, as each costs a descriptor; so that a load balancer's
 * probe always finds one, the one that has been idle for longest makes room when too many are open. A
 * connection is idle while no answer is on its way, whatever trickles in. */
#ifndef TB_PROXY_ADMIN_HEALTH_CONNECTIONS_H
#define TB_PROXY_ADMIN_HEALTH_CONNECTIONS_H

#include <microhttpd.h>
#include <sys/queue.h>

#define TB_HEALTH_CONNECTIONS 64 /* kept; past it an idle one is closed */
#define TB_HEALTH_CONNECTIONS_MAX                                                                            \
    128 /* libmicrohttpd's limit: it closes what was shut down at its next turn */

struct tb_health_connection;
struct tb_health_connections {
    TAILQ_HEAD(tb_health_idle, tb_health_connection) idle; /* the longest first */
    unsigned n;
};

void tb_health_connections_init(struct tb_health_connections *l);
/* MHD_OPTION_NOTIFY_CONNECTION; cls is the struct tb_health_connections. */
void tb_health_connection_notify(void *cls, struct MHD_Connection *c, void **socket_context,
                                 enum MHD_ConnectionNotificationCode code);
/* An answer is on its way; it is over. */
void tb_health_connection_busy(struct tb_health_connections *l, struct MHD_Connection *c);
void tb_health_connection_idle(struct tb_health_connections *l, struct MHD_Connection *c);

#endif
