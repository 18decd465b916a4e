/* SPDX-License-Identifier: Apache-2.0 */
/* HTTP(S) around cp_api over libmicrohttpd: a few threads for connections, workers for answers; bounded
 * connections, bodies and time. */
#ifndef CP_SERVER_H
#define CP_SERVER_H

#include "controlplane/api/api.h"
#include "controlplane/http/workers.h"

#define CP_CONNECTIONS_MAX 1024
#define CP_CONNECTIONS_OF_ONE 256 /* client address */
#define CP_IO_THREADS 2
#define CP_IDLE_SECONDS 15         /* a connection without progress is closed */
#define CP_REQUEST_US_MAX 30000000 /* and so is one that drips its body for longer than this */

struct cp_server_tls {
    char *cert, *key; /* PEM text; NULL: plain HTTP */
    /* PEM text of the CAs of client certificates: clients are asked for one; NULL: they are not */
    char *client_ca;
    bool require_client_cert; /* authorize is for those alone that have one of these CAs */
};

struct cp_server;

/* Serves api on the listening socket, which it then owns, until stopped; each of the workers opens the
 * database at place. api, place and tls live longer than the server. */
int cp_server_start(const struct cp_api *api, const struct cp_place *place, unsigned n_workers,
                    const struct cp_server_tls *tls, int listen_fd, struct cp_server **ret,
                    char err[static CP_ERR_MAX]);
/* Serves /metrics over plain HTTP on this socket, too, which it then owns. */
int cp_server_add_metrics(struct cp_server *s, int listen_fd);
/* Closes the listener, answers what has arrived, closes all connections, joins the threads. NULL is fine. */
struct cp_server *cp_server_stop(struct cp_server *s);

/* Binds "host:port", "[v6]:port" or ":port" (all addresses); port 0 picks one. fd or -errno with a reason. */
int cp_listen(const char *addr, char err[static CP_ERR_MAX]);
/* "127.0.0.1:8080" of a bound socket. */
int cp_listen_name(int fd, char *out, size_t out_len);

#endif
