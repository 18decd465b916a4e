/* SPDX-License-Identifier: Apache-2.0 */
/* The status page of the health port: GET / as HTML, and the same as JSON for its events. All text is made
 * here, once. Holds nothing secret: no contract, no address, no key's name, nothing out of a request but
 * what recent.h lets through. */
#ifndef TB_PROXY_ADMIN_PAGE_H
#define TB_PROXY_ADMIN_PAGE_H

#include "proxy/server.h"

/* Needs nothing from elsewhere, and allows nothing. */
#define TB_PAGE_POLICY                                                                                       \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "          \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* 0 or -ENOMEM. */
int tb_page_html(const struct tb_server *s, struct tb_buf *out);
/* {"fields":{name:text},"rows":[[time,request,status,took,class]]} */
int tb_page_json(const struct tb_server *s, struct tb_buf *out);
/* Once a tick: feeds the traffic of the last minute. */
void tb_page_tick(struct tb_server *s, uint64_t now_us);

#endif
