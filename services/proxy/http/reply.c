/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/reply.h"

#include <stdarg.h>
#include <string.h>

/* OpenAI's words for the kinds of error, which client libraries map to exceptions. */
static const char *error_type(int status)
{
    switch (status) {
    case TB_HTTP_UNAUTHORIZED:
        return "authentication_error";
    case TB_HTTP_FORBIDDEN:
        return "permission_error";
    case TB_HTTP_NOT_FOUND:
        return "not_found_error";
    case TB_HTTP_TOO_MANY_REQUESTS:
        return "rate_limit_error";
    case TB_HTTP_SERVICE_UNAVAILABLE:
        return "service_unavailable";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

void tb_reply_field(struct tb_reply *r, const char *name, const char *fmt, ...)
{
    char value[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    (void)tb_buf_puts(&r->fields, name);
    (void)tb_buf_append(&r->fields, ": ", 2);
    (void)tb_buf_puts(&r->fields, value);
    (void)tb_buf_append(&r->fields, "\r\n", 2);
}

void tb_reply_text(struct tb_reply *r, int status, const char *body, size_t len, const char *content_type)
{
    r->status = status;
    (void)tb_buf_append(&r->body, body, len);
    tb_reply_field(r, "Content-Type", "%s", content_type);
    tb_reply_field(r, "Cache-Control", "no-store");
    tb_reply_field(r, "X-Content-Type-Options", "nosniff");
}

void tb_reply_fail(struct tb_reply *r, const struct tb_http_error *e)
{
    struct tb_buf *b = &r->body;

    (void)tb_buf_puts(b, "{\"error\":{\"message\":");
    (void)tb_buf_json_string(b, e->message, strlen(e->message));
    (void)tb_buf_printf(b, ",\"type\":\"%s\",\"code\":\"%s\"}}\n", error_type(e->status), e->code);
    tb_reply_text(r, e->status, "", 0, "application/json");
    if (e->retry_after_s > 0)
        tb_reply_field(r, "Retry-After", "%u", e->retry_after_s);
    if (e->status == TB_HTTP_UNAUTHORIZED)
        tb_reply_field(r, "WWW-Authenticate", "Bearer realm=\"trustbridge\"");
}

void tb_reply_clear(struct tb_reply *r)
{
    tb_buf_free(&r->fields);
    tb_buf_free(&r->body);
}
