/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/forward.h"

#include <string.h>
#include <strings.h>

#include "proxy/exchange.h"
#include "proxy/gate/admission.h"
#include "proxy/admin/health.h"
#include "proxy/request_usage.h"
#include "proxy/request_limits.h"

#define SHORT_MAX (16 * 1024)
#define BLOCK_MAX (32 * 1024)
#define EVENT_BLOCK_MAX (8 * 1024)

void tb_forward_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                           enum MHD_ConnectionNotificationCode code)
{
    struct tb_server *s = cls;

    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        *socket_context = tb_client_new(s, c); /* NULL: its requests are closed unanswered */
    else if (*socket_context)
        tb_client_free(s, *socket_context);
    if (code == MHD_CONNECTION_NOTIFY_CLOSED)
        *socket_context = NULL;
}

/* --- answers ----------------------------------------------------------------------------------------------------- */

/* Waits for the runtime or for room. A client that has gone is not waited for. */
static bool wait_for_event(struct tb_exchange *ex)
{
    if (ex->client->gone)
        return false;
    ex->suspended = true;
    MHD_suspend_connection(ex->mhd);
    return true;
}

/* Content reader: what the runtime has sent, as it comes. */
static ssize_t read_answer(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct tb_exchange *ex = cls;
    ssize_t n;

    if (!ex->call) /* cancelled: the client has gone */
        return MHD_CONTENT_READER_END_WITH_ERROR;
    n = ex->metered ? tb_metering_read(ex, buf, max) : tb_call_read(ex->call, buf, max);
    if (n > 0) {
        ex->bytes_out += (uint64_t)n;
        tb_usage_add(ex->server->usage, TB_USAGE_BYTES_OUT, (uint64_t)n);
        return n;
    }
    if (n == 0)
        return MHD_CONTENT_READER_END_OF_STREAM;
    if (n == -EAGAIN)
        return wait_for_event(ex) ? 0 : MHD_CONTENT_READER_END_WITH_ERROR;
    ex->cut = true;
    return MHD_CONTENT_READER_END_WITH_ERROR;
}

static void add_cors(const struct tb_exchange *ex, struct MHD_Response *rs)
{
    struct tb_cors_field field[TB_CORS_FIELDS_MAX];
    size_t n = tb_cors_fields(&ex->server->cors, &ex->cors, ex->preflight, field);

    for (size_t i = 0; i < n; i++)
        MHD_add_response_header(rs, field[i].name, field[i].value);
}

static enum MHD_Result queue(struct tb_exchange *ex, int status, struct MHD_Response *rs)
{
    enum MHD_Result r;

    if (!rs)
        return MHD_NO;
    if (ex->server->draining)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_CONNECTION, "close");
    if (ex->request_id[0])
        MHD_add_response_header(rs, "X-Request-Id", ex->request_id);
    tb_quota_headers(ex, rs);
    add_cors(ex, rs);
    ex->status = status;
    ex->replied = true;
    r = MHD_queue_response(ex->mhd, (unsigned)status, rs);
    MHD_destroy_response(rs);
    return r;
}

static enum MHD_Result reply_error(struct tb_exchange *ex, bool close)
{
    struct MHD_Response *rs = tb_http_error_response(&ex->error);

    if (rs && close)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_CONNECTION, "close");
    if (rs && ex->error.status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_ALLOW, "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    return queue(ex, ex->error.status, rs);
}

/* A short answer that is already here leaves in one piece with its head. */
static struct MHD_Response *make_short_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    _cleanup_free_ char *body = malloc(up->length);
    struct MHD_Response *rs;
    size_t have = 0;

    while (body && have < up->length) {
        ssize_t n = read_answer(ex, have, body + have, up->length - have);

        if (n <= 0)
            return NULL;
        have += (size_t)n;
    }
    rs = body ? MHD_create_response_from_buffer(up->length, body, MHD_RESPMEM_MUST_FREE) : NULL;
    if (rs)
        body = NULL;
    return rs;
}

/* To HEAD, or 304: with the length a GET would have, when the runtime gave one. Without, no framing may be announced, or
 * libmicrohttpd sends the end of a chunked body as well, which the client takes for the start of the next answer. */
static struct MHD_Response *make_bodiless_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    struct MHD_Response *rs;

    if (up->has_length)
        return MHD_create_response_from_callback(up->length, 1, read_answer, ex, NULL);
    rs = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 1, read_answer, ex, NULL);
    if (rs)
        MHD_set_response_options(rs, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
    return rs;
}

static struct MHD_Response *make_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    if (strcmp(ex->method, "HEAD") == 0 || up->status == MHD_HTTP_NOT_MODIFIED)
        return make_bodiless_answer(ex, up);
    if (up->framing == TB_FRAMING_NONE || (up->framing == TB_FRAMING_LENGTH && up->length == 0))
        return MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT);
    if (ex->parser.strip ||
        (up->event_stream && !up->has_length)) /* stripped: shorter than announced, if it was */
        return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, EVENT_BLOCK_MAX, read_answer, ex, NULL);
    if (up->length <= SHORT_MAX && tb_call_whole(ex->call))
        return make_short_answer(ex, up);
    if (up->has_length)
        return MHD_create_response_from_callback(up->length, MIN(up->length, BLOCK_MAX), read_answer, ex,
                                                 NULL);
    return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_MAX, read_answer, ex, NULL);
}

static bool head_fits(const struct tb_exchange *ex, const struct tb_response *up)
{
    size_t need = ex->head_bytes + TB_SERVER_POOL_SPARE;

    for (size_t i = 0; i < up->n_headers; i++)
        need += strlen(up->header[i].name) + strlen(up->header[i].value) + 4;
    return need <= TB_SERVER_POOL_BYTES;
}

static enum MHD_Result reply_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    struct MHD_Response *rs;

    if (!head_fits(ex, up)) {
        tb_http_error_set(&ex->error, MHD_HTTP_BAD_GATEWAY, "upstream_error",
                          "the header fields of the runtime's answer are too large");
        tb_exchange_cancel(ex);
        return reply_error(ex, false);
    }
    tb_metering_answer(ex, up);
    rs = make_answer(ex, up);
    if (!rs)
        return MHD_NO;
    for (size_t i = 0; i < up->n_headers; i++)
        if (strcasecmp(up->header[i].name, "X-Request-Id") != 0 &&
            !tb_cors_replaces(&ex->server->cors, up->header[i].name))
            MHD_add_response_header(rs, up->header[i].name, up->header[i].value);
    if (up->event_stream) /* for buffering proxies in front of us */
        MHD_add_response_header(rs, "X-Accel-Buffering", "no");
    tb_usage_add(ex->server->usage, TB_USAGE_REQUESTS, 1);
    ex->answered = true;
    return queue(ex, up->status, rs);
}

static enum MHD_Result reply(struct tb_exchange *ex)
{
    const struct tb_response *up;

    if (ex->replied)
        return MHD_YES;
    if (ex->preflight)
        return queue(ex, MHD_HTTP_NO_CONTENT,
                     MHD_create_response_from_buffer(0, (void *)"", MHD_RESPMEM_PERSISTENT));
    tb_exchange_check_call(ex);
    if (ex->error.status)
        return reply_error(ex, false);
    if (!ex->call)
        return MHD_NO; /* cancelled: the client has gone */
    up = tb_call_response(ex->call);
    if (up)
        return reply_answer(ex, up);
    return wait_for_event(ex) ? MHD_YES : MHD_NO;
}

/* --- libmicrohttpd's calls --------------------------------------------------------------------------------------- */

void *tb_forward_target(void *cls, const char *target, struct MHD_Connection *c)
{
    return tb_exchange_new(cls, target, c);
}

static enum MHD_Result begin(struct tb_exchange *ex, const char *method)
{
    bool close;
    int r = tb_exchange_begin(ex, method, &close);

    if (r < 0)
        return MHD_NO;
    return close ? reply_error(ex, true) : MHD_YES;
}

enum MHD_Result tb_forward_handler(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                   const char *version, const char *upload, size_t *upload_size,
                                   void **con_cls)
{
    struct tb_exchange *ex = *con_cls;
    ssize_t taken;

    if (!ex)
        return MHD_NO;
    if (!ex->begun)
        return begin(ex, method);
    if (*upload_size > 0) {
        taken = tb_exchange_upload(ex, upload, *upload_size);
        if (taken < 0)
            return MHD_NO;
        *upload_size -= (size_t)taken;
        return *upload_size == 0 || wait_for_event(ex) ? MHD_YES : MHD_NO;
    }
    if (!tb_exchange_upload_end(ex) && !tb_metering_answered(ex))
        return wait_for_event(ex) ? MHD_YES : MHD_NO;
    if (ex->health) {
        const struct tb_server *s = cls;
        const struct tb_api_keys *keys = s->keys ? tb_key_store_keys(s->keys) : NULL;

        return tb_health_answer(cls, c, method, ex->target, ex->path_len,
                                tb_admit_identified(keys, &ex->credentials));
    }
    return reply(ex);
}

void tb_forward_completed(void *cls, struct MHD_Connection *c, void **con_cls,
                          enum MHD_RequestTerminationCode code)
{
    struct tb_exchange *ex = *con_cls;

    *con_cls = NULL;
    if (ex)
        tb_exchange_end(ex, code);
}
