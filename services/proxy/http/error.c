/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/error.h"

#include <stdarg.h>
#include <string.h>

#include "common/buf.h"

void tb_http_error_set(struct tb_http_error *e, int status, const char *code, const char *fmt, ...)
{
    va_list ap;
    size_t n = 0;

    *e = (struct tb_http_error){.status = status};
    for (const char *p = code; *p && n < sizeof(e->code) - 1; p++) {
        char c = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;

        e->code[n++] = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '_';
    }
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
}

/* OpenAI's words for the kinds of error, which client libraries map to exceptions. */
static const char *error_type(int status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    case 503:
        return "service_unavailable";
    default:
        return status < 500 ? "invalid_request_error" : "server_error";
    }
}

struct MHD_Response *tb_http_text_response(const char *body, size_t len, const char *content_type)
{
    struct MHD_Response *rs = MHD_create_response_from_buffer(len, (void *)body, MHD_RESPMEM_MUST_COPY);

    if (!rs)
        return NULL;
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CONTENT_TYPE, content_type);
    MHD_add_response_header(rs, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(rs, "X-Content-Type-Options", "nosniff");
    return rs;
}

struct MHD_Response *tb_http_error_response(const struct tb_http_error *e)
{
    _cleanup_buf_ struct tb_buf b = {0};
    struct MHD_Response *rs;
    char seconds[16];

    if (tb_buf_puts(&b, "{\"error\":{\"message\":") < 0 ||
        tb_buf_json_string(&b, e->message, strlen(e->message)) < 0 ||
        tb_buf_printf(&b, ",\"type\":\"%s\",\"code\":\"%s\"}}\n", error_type(e->status), e->code) < 0)
        return NULL;
    rs = tb_http_text_response(b.data, b.len, "application/json");
    if (!rs)
        return NULL;
    if (e->retry_after_s > 0) {
        snprintf(seconds, sizeof(seconds), "%u", e->retry_after_s);
        MHD_add_response_header(rs, MHD_HTTP_HEADER_RETRY_AFTER, seconds);
    }
    if (e->status == MHD_HTTP_UNAUTHORIZED)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_WWW_AUTHENTICATE, "Bearer realm=\"trustbridge\"");
    return rs;
}
