/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/request_forward.h"

#include <string.h>

#include "proxy/request_limits.h"

static void forward_put_field(struct tb_buf *b, const char *name, size_t name_len, const char *value,
                              size_t value_len)
{
    char *p;

    if (tb_buf_reserve(b, name_len + value_len + 4) < 0)
        return;
    p = b->data + b->len;
    memcpy(p, name, name_len);
    memcpy(p + name_len, ": ", 2);
    memcpy(p + name_len + 2, value, value_len);
    memcpy(p + name_len + 2 + value_len, "\r\n", 2);
    b->len += name_len + value_len + 4;
}

static void forward_put_string(struct tb_buf *b, const char *name, const char *value)
{
    forward_put_field(b, name, strlen(name), value, strlen(value));
}

/* --- to the runtime ------------------------------------------------------------------------------------- */

/* A field that a Connection field names is for one hop only. Those that decide something here are not:
 * what we acted on, the runtime must see as well. */
static bool forward_is_named_by_connection(const struct tb_request *rq, const struct tb_field *f)
{
    for (size_t i = 0; i < rq->n_fields; i++)
        if (rq->field[i].id == TB_HEADER_CONNECTION && tb_header_has_token(rq->field[i].value, f->name))
            return true;
    return false;
}

static bool forward_passes(const struct tb_exchange *ex, const struct tb_request *rq,
                           const struct tb_field *f)
{
    struct tb_credentials unused = {0};

    switch (f->id) {
    case TB_HEADER_OTHER:
        break;
    case TB_HEADER_AUTHORIZATION:
    case TB_HEADER_CONTENT_ENCODING:
    case TB_HEADER_CONTENT_TYPE:
    case TB_HEADER_DATE:
        return f->id != TB_HEADER_AUTHORIZATION || !ex->server->keys;
    default: /* for one hop, or ours to write */
        return false;
    }
    if (ex->server->keys && tb_credentials_field(&unused, f->name, f->value, f->value_len))
        return false;
    return !rq->has_connection || !forward_is_named_by_connection(rq, f);
}

static void forward_put_forwarded_for(const struct tb_exchange *ex, const struct tb_request *rq,
                                      struct tb_buf *out)
{
    (void)tb_buf_puts(out, "X-Forwarded-For: ");
    for (size_t i = 0; i < rq->n_fields; i++)
        if (rq->field[i].id == TB_HEADER_X_FORWARDED_FOR && rq->field[i].value_len > 0) {
            (void)tb_buf_append(out, rq->field[i].value, rq->field[i].value_len);
            (void)tb_buf_append(out, ", ", 2);
        }
    (void)tb_buf_puts(out, tb_connection_address(ex->connection));
    (void)tb_buf_append(out, "\r\n", 2);
}

void tb_forward_request_fields(const struct tb_exchange *ex, const struct tb_request *rq,
                               const struct tb_target *t, struct tb_buf *out)
{
    if (t->authority)
        forward_put_field(out, "Host", 4, t->authority, t->authority_len);
    else
        forward_put_string(out, "Host", rq->host ? rq->host : tb_upstream_host(ex->server->upstream));
    for (size_t i = 0; i < rq->n_fields; i++) {
        const struct tb_field *f = &rq->field[i];

        if (forward_passes(ex, rq, f))
            forward_put_field(out, f->name, f->name_len, f->value, f->value_len);
    }
    (void)tb_buf_puts(out, "Accept-Encoding: identity\r\n"); /* what is to be counted must be read */
    forward_put_forwarded_for(ex, rq, out);
    forward_put_string(out, "X-Forwarded-Proto", ex->server->config->tls_cert ? "https" : "http");
    forward_put_string(out, "X-Request-Id", ex->request_id);
}

/* --- to the client -------------------------------------------------------------------------------------- */

void tb_forward_own_fields(const struct tb_exchange *ex, struct tb_buf *out)
{
    struct tb_cors_field field[TB_CORS_FIELDS_MAX];
    size_t n = tb_cors_fields(&ex->server->cors, &ex->cors, ex->preflight, field);

    if (ex->request_id[0])
        forward_put_string(out, "X-Request-Id", ex->request_id);
    tb_quota_headers(ex, out);
    for (size_t i = 0; i < n; i++)
        forward_put_string(out, field[i].name, field[i].value);
}

void tb_forward_answer_fields(const struct tb_exchange *ex, const struct tb_response *up, struct tb_buf *out,
                              bool *ret_has_date)
{
    *ret_has_date = false;
    for (size_t i = 0; i < up->n_headers; i++) {
        const struct tb_header *h = &up->header[i];

        *ret_has_date |= h->id == TB_HEADER_DATE;
        if (h->id != TB_HEADER_X_REQUEST_ID && !tb_cors_replaces(&ex->server->cors, h->name))
            forward_put_field(out, h->name, h->name_len, h->value, h->value_len);
    }
    if (up->event_stream) /* for buffering proxies in front of us */
        (void)tb_buf_puts(out, "X-Accel-Buffering: no\r\n");
    tb_forward_own_fields(ex, out);
}

void tb_forward_cancel(struct tb_exchange *ex)
{
    tb_call_free(ex->call);
    ex->call = NULL;
    ex->upload_left = false;
}
