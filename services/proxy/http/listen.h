/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: inherited by name, else bound here. */
#ifndef TB_PROXY_HTTP_LISTEN_H
#define TB_PROXY_HTTP_LISTEN_H

/* The inherited socket called name, made non-blocking; else a new one on addr ("host:port", "[v6]:port",
 * ":port", which is IPv6 and IPv4). taken: a listener that already serves another purpose, as a single one
 * without a name may fit both; -1: none. fd or -errno; -EINVAL for an address that does not resolve. */
int tb_listen_open(const char *name, const char *addr, int taken);

#endif
