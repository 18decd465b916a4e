/* SPDX-License-Identifier: Apache-2.0 */
/* Where the runtime listens: TB_RUNTIME_URL, http://127.0.0.1:8081[/prefix] or unix:/path. */
#ifndef TB_PROXY_HTTP_ADDRESS_H
#define TB_PROXY_HTTP_ADDRESS_H

#include <sys/socket.h>

struct tb_address {
    struct sockaddr_storage addr;
    socklen_t addr_len;
    char host[300];   /* for a Host header */
    char prefix[256]; /* put before each target; never ends in a slash */
};

/* -EINVAL when url is neither form or does not resolve. */
int tb_address_parse(const char *url, struct tb_address *ret);

#endif
