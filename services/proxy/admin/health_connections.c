/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/health_connections.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

struct tb_health_connection {
    int fd; /* libmicrohttpd's */
    bool idle;
    TAILQ_ENTRY(tb_health_connection) entry;
};

void tb_health_connections_init(struct tb_health_connections *l)
{
    *l = (struct tb_health_connections){0};
    TAILQ_INIT(&l->idle);
}

static void health_set_idle(struct tb_health_connections *l, struct tb_health_connection *h, bool idle)
{
    if (h->idle)
        TAILQ_REMOVE(&l->idle, h, entry);
    if (idle)
        TAILQ_INSERT_TAIL(&l->idle, h, entry);
    h->idle = idle;
}

/* libmicrohttpd has no call to end a connection; it sees the end of the socket as the client's. */
static void health_make_room(struct tb_health_connections *l)
{
    struct tb_health_connection *h = TAILQ_FIRST(&l->idle);

    if (l->n <= TB_HEALTH_CONNECTIONS || !h)
        return;
    health_set_idle(l, h, false);
    (void)shutdown(h->fd, SHUT_RDWR);
}

void tb_health_connection_notify(void *cls, struct MHD_Connection *c, void **socket_context,
                                 enum MHD_ConnectionNotificationCode code)
{
    struct tb_health_connections *l = cls;
    struct tb_health_connection *h = *socket_context;

    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        h = calloc(1, sizeof(*h));
        *socket_context = h;
        if (!h)
            return;
        h->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        l->n++;
        health_make_room(l);
        health_set_idle(l, h, true);
    } else if (h) {
        assert(l->n > 0);
        l->n--;
        health_set_idle(l, h, false);
        free(h);
        *socket_context = NULL;
    }
}

static struct tb_health_connection *health_of(struct MHD_Connection *c)
{
    return MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

void tb_health_connection_busy(struct tb_health_connections *l, struct MHD_Connection *c)
{
    struct tb_health_connection *h = health_of(c);

    if (h)
        health_set_idle(l, h, false);
}

void tb_health_connection_idle(struct tb_health_connections *l, struct MHD_Connection *c)
{
    struct tb_health_connection *h = health_of(c);

    if (h)
        health_set_idle(l, h, true);
}
