/* SPDX-License-Identifier: Apache-2.0 */
/* Answers on the health port, which libmicrohttpd serves. */
#ifndef TB_PROXY_ADMIN_MHD_RESPONSE_H
#define TB_PROXY_ADMIN_MHD_RESPONSE_H

#include <microhttpd.h>

#include "proxy/http/reply.h"

/* The reply's fields and body, without its status; clears it. NULL on ENOMEM. */
struct MHD_Response *tb_mhd_response(struct tb_reply *r);
struct MHD_Response *tb_mhd_error(const struct tb_http_error *e);
struct MHD_Response *tb_mhd_text(const char *body, size_t len, const char *content_type);

#endif
