/* SPDX-License-Identifier: Apache-2.0 */
/* An answer that is made here and held whole: an OpenAI-shaped error, a status page. */
#ifndef TB_PROXY_HTTP_REPLY_H
#define TB_PROXY_HTTP_REPLY_H

#include <stddef.h>

#include "common/buf.h"
#include "proxy/http/error.h"

struct tb_reply {
    int status;
    struct tb_buf fields; /* "Name: value\r\n" each; none of framing or Connection */
    struct tb_buf body;
};

/* A body with its type, not to be cached. Text is copied. What memory cannot hold shows in
 * tb_reply_error(). */
void tb_reply_text(struct tb_reply *r, int status, const char *body, size_t len, const char *content_type);
/* {"error":{"message","type","code"}} with Retry-After or WWW-Authenticate as the error asks. */
void tb_reply_fail(struct tb_reply *r, const struct tb_http_error *e);
void tb_reply_field(struct tb_reply *r, const char *name, const char *fmt, ...) _printf_(3, 4);
static inline int tb_reply_error(const struct tb_reply *r)
{
    return r->fields.error ? r->fields.error : r->body.error;
}
void tb_reply_clear(struct tb_reply *r);

#endif
