/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: inherited by name, else bound here. */
#ifndef TB_PROXY_HTTP_LISTEN_H
#define TB_PROXY_HTTP_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

/* The inherited socket called name, made non-blocking; else a new one on addr ("host:port", "[v6]:port",
 * ":port", which is IPv6 and IPv4). taken: a listener that already serves another purpose, as a single one
 * without a name may fit both; -1: none. fd or -errno; -EINVAL for an address that does not resolve. */
int tb_listen_open(const char *name, const char *addr, int taken);
/* True when two sockets are known to be in different network namespaces: who reaches one does not reach the
 * other. */
bool tb_listen_apart(int fd, int other);
/* Where it really listens, whoever opened it, in the same form; "" for one without a port. */
void tb_listen_address(int fd, char *out, size_t size);

#endif
