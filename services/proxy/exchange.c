/* SPDX-License-Identifier: Apache-2.0 */
/* How a request flows. http/connection.c reads it and calls, in this order:
 *
 *   exchange_begin     The head is here. Its target gets its one spelling (http/target.c). Our own endpoints
 *                      answer at once (admin/health.c). Everything else takes a slot for its audit record, is
 *                      admitted or refused (gate/admission.c), enters its key's limits (request_limits.c);
 *                      its head goes to the runtime (request_forward.c, http/upstream.c). A head that could
 *                      not be read, or not in one way only, is answered and recorded like any other.
 *   exchange_body      Bytes of the body: counted, hashed, and on to the runtime from where they lie. A body
 *                      that asks for tokens passes through the rewrite (request_usage.c) and reserves what it
 *                      may cost before the runtime can begin.
 *   exchange_body_end  Nothing more will come: the runtime gets the end.
 *   exchange_event     The runtime has answered, sent more, has room again, or failed. The answer begins as
 *                      soon as its head is here, whether the body is complete or not, and passes to the
 *                      client from where it lies; its tokens are counted as it passes.
 *   exchange_refuse    The rest of the body will never come.
 *   exchange_end       The client has all of the answer, or has gone: what it cost is booked and settled
 *                      (request_usage.c, request_limits.c), its record is written (request_record.c).
 *
 * A client that goes away ends the exchange, which closes the runtime's connection: that is how the
 * runtime learns of it. */
#include "proxy/exchange.h"

#include <string.h>

#include "proxy/admin/health.h"
#include "proxy/gate/admission.h"
#include "common/hex.h"
#include "common/secret.h"
#include "common/units.h"
#include "proxy/hold.h"
#include "proxy/request_forward.h"
#include "proxy/request_limits.h"
#include "proxy/request_record.h"
#include "proxy/request_usage.h"

/* How much of a body that nobody reads is still taken, so that its connection can be kept. */
#define DISCARD_MAX (8ULL * 1024 * 1024)
#define TURN_BYTES (128 * 1024) /* of an answer, in one turn of the loop */
#define METERED_COST 4          /* of one that is read for its usage, for each byte */
#define PIECE (16 * 1024)       /* of an answer that passes through the usage parser */

static void exchange_event(void *arg);
static void exchange_check(struct tb_exchange *ex);

/* --- answers of our own --------------------------------------------------------------------------------- */

static void exchange_reply(struct tb_exchange *ex, struct tb_reply *r, bool close)
{
    tb_forward_own_fields(ex, &r->fields);
    ex->status = r->status;
    ex->replied = ex->reply_ended = true;
    tb_connection_reply(ex->connection, r, ex->head_request, close);
    tb_reply_clear(r);
}

static void exchange_reply_error(struct tb_exchange *ex, bool close)
{
    struct tb_reply r = {0};

    tb_reply_fail(&r, &ex->error);
    if (ex->error.status == TB_HTTP_METHOD_NOT_ALLOWED)
        tb_reply_field(&r, "Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
    exchange_reply(ex, &r, close);
}

/* In place of an answer, or of the rest of one. */
static void exchange_fail(struct tb_exchange *ex, bool close)
{
    tb_forward_cancel(ex);
    if (!ex->replied)
        exchange_reply_error(ex, close);
    else if (!ex->reply_ended)
        tb_connection_abort(ex->connection);
}

static void exchange_read_credentials(const struct tb_request *rq, struct tb_credentials *ret)
{
    *ret = (struct tb_credentials){0};
    for (size_t i = 0; i < rq->n_fields; i++)
        if (rq->field[i].id == TB_HEADER_OTHER || rq->field[i].id == TB_HEADER_AUTHORIZATION)
            (void)tb_credentials_field(ret, rq->field[i].name, rq->field[i].value, rq->field[i].value_len);
}

static void exchange_reply_health(struct tb_exchange *ex, const struct tb_request *rq)
{
    const struct tb_server *s = ex->server;
    struct tb_credentials credentials;
    struct tb_reply r = {0};

    ex->health = true;
    exchange_read_credentials(rq, &credentials);
    tb_health_reply(ex->server, ex->method, ex->target, ex->path_len,
                    tb_admit_identified(s->keys ? tb_key_store_keys(s->keys) : NULL, &credentials)
                        ? TB_HEALTH_CLIENT
                        : TB_HEALTH_STRANGER,
                    &r);
    exchange_reply(ex, &r, rq->expect_continue); /* the body may come or not */
}

/* --- the head ------------------------------------------------------------------------------------------- */

static void exchange_copy_method(struct tb_exchange *ex, const struct tb_request *rq)
{
    size_t n = MIN(rq->method_len, sizeof(ex->method) - 1);

    memcpy(ex->method, rq->method, n);
    ex->method[n] = '\0';
}

/* The target's one spelling; of one that has none, what came. False: no memory. */
static bool exchange_read_target(struct tb_exchange *ex, const struct tb_request *rq, struct tb_target *ret,
                                 struct tb_target_refusal *why)
{
    *why = (struct tb_target_refusal){0};
    ex->target = malloc(TB_TARGET_ROOM(rq->target_len));
    if (!ex->target)
        return false;
    if (rq->target_len > 0 && tb_target_parse(rq->target, rq->target_len, ex->target, ret, why)) {
        ex->path_len = ret->path_len;
        return true;
    }
    *ret = (struct tb_target){.form = ret->form};
    memcpy(ex->target, rq->target_len > 0 ? rq->target : "-", MAX(rq->target_len, 1) + 1);
    ex->path_len = strcspn(ex->target, "?");
    return true;
}

/* One that is over is used again: larger than what the allocator has ready, it would cost much of a short
 * request. */
static struct tb_exchange *exchange_new(struct tb_server *s, struct tb_connection *c)
{
    struct tb_exchange *ex = s->n_spare > 0 ? s->spare[--s->n_spare] : malloc(sizeof(*ex));

    if (!ex)
        return NULL;
    memset(ex, 0, sizeof(*ex));
    ex->server = s;
    ex->connection = c;
    ex->start_us = s->loop.now_us;
    ex->start_realtime_us = tb_now_realtime_us();
    memcpy(ex->method, "-", 2);
    return ex;
}

static void exchange_free(struct tb_exchange *ex)
{
    struct tb_server *s = ex->server;

    tb_record_finish_digest(ex);
    free(ex->target);
    free(ex->cors_text);
    if (s->n_spare < ARRAY_SIZE(s->spare))
        s->spare[s->n_spare++] = ex;
    else
        free(ex);
}

void tb_exchange_free_spare(struct tb_server *s)
{
    while (s->n_spare > 0)
        free(s->spare[--s->n_spare]);
}

static int exchange_set_request_id(struct tb_exchange *ex, const char *given)
{
    struct tb_server *s = ex->server;
    int r = 0;

    if (given && tb_request_id_valid(given)) {
        memcpy(ex->request_id, given, strlen(given) + 1);
        return 0;
    }
    if (s->ids_left == 0) { /* a system call for many of them */
        r = tb_random(s->ids, sizeof(s->ids));
        s->ids_left = r < 0 ? 0 : ARRAY_SIZE(s->ids);
    }
    if (r >= 0)
        tb_hex_encode(s->ids[--s->ids_left], sizeof(s->ids[0]), ex->request_id);
    return r;
}

/* What a browser asks is told again with the answer: it outlives the head. */
static int exchange_keep_cors(struct tb_exchange *ex, const struct tb_request *rq)
{
    struct tb_cors_request asked = {0};
    const char **from[] = {&asked.origin, &asked.method, &asked.headers};
    const char **to[] = {&ex->cors.origin, &ex->cors.method, &ex->cors.headers};
    size_t size = 0;
    char *p;

    for (size_t i = 0; i < rq->n_fields; i++)
        if (rq->field[i].id == TB_HEADER_OTHER)
            tb_cors_field(&asked, rq->field[i].name, rq->field[i].value);
    for (size_t i = 0; i < ARRAY_SIZE(from); i++)
        size += *from[i] ? strlen(*from[i]) + 1 : 0;
    if (size == 0)
        return 0;
    ex->cors_text = p = malloc(size);
    if (!p)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_SIZE(from); i++)
        if (*from[i]) {
            *to[i] = memcpy(p, *from[i], strlen(*from[i]) + 1);
            p += strlen(p) + 1;
        }
    return 0;
}

static int exchange_start_call(struct tb_exchange *ex, const struct tb_request *rq, const struct tb_target *t)
{
    struct tb_buf *fields = &ex->server->fields;
    struct tb_call_request call = {
        .method = ex->method,
        .target = ex->target,
        .lines = fields,
        .body = rq->chunked      ? TB_FRAMING_CHUNKED
                : rq->has_length ? TB_FRAMING_LENGTH
                                 : TB_FRAMING_NONE,
        .length = rq->length + (ex->grows ? TB_REWRITE_GROWTH : 0),
        .on_event = exchange_event,
        .arg = ex,
    };

    tb_buf_clear(fields);
    tb_forward_request_fields(ex, rq, t, fields);
    if (tb_buf_error(fields) < 0)
        return tb_buf_error(fields);
    ex->forwarded = true;
    if (ex->server->asked++ == 0)
        ex->server->heard_us = tb_now_monotonic_us();
    return tb_call_start(ex->server->upstream, &call, &ex->call);
}

/* True when the request may go on to the runtime. */
static bool exchange_admit(struct tb_exchange *ex, const struct tb_request *rq,
                           const struct tb_target_refusal *bad_target, const struct tb_target *t,
                           enum tb_admission audit, bool *ret_close)
{
    struct tb_server *s = ex->server;
    struct tb_credentials credentials;
    struct tb_admit_request ask = {
        .method = ex->method,
        .path = ex->target,
        .path_len = ex->path_len,
        .form = t->form,
        .bad_target = bad_target,
        .head = rq,
        .credentials = &credentials,
        .cors = &ex->cors,
        .cors_policy = &s->cors,
        .audit = audit,
        .verdict = &s->monitor.verdict,
        .lease_over = tb_lease_over(&s->monitor.facts, tb_now_boottime_us()),
        .keys = s->keys ? tb_key_store_keys(s->keys) : NULL,
        .routes = s->config->routes,
        .route_cache = &s->routes,
        .finetune = s->monitor.facts.decrypt.finetune,
        .max_body = s->config->max_body_bytes,
    };
    struct tb_admit_result result;

    exchange_read_credentials(rq, &credentials);
    tb_admit(&ask, &result);
    *ret_close = result.must_close;
    ex->error = result.error;
    ex->preflight = result.preflight;
    if (result.key) {
        memcpy(ex->key_name, result.key->name, sizeof(ex->key_name));
        ex->account = tb_key_account_use(result.key);
    }
    if (ex->error.status || ex->preflight || rq->gone)
        return false;
    tb_metering_begin(ex, rq);
    if (ex->edits)
        tb_connection_set_costly(ex->connection);
    return tb_quota_enter(ex, rq);
}

/* Takes the head's way through admission to the runtime, or answers why not. -ENOMEM. */
static int exchange_decide(struct tb_exchange *ex, const struct tb_request *rq, const struct tb_target *t,
                           const struct tb_target_refusal *bad_target, enum tb_admission audit)
{
    bool close = false;
    int r = tb_record_begin_digest(ex) ? exchange_set_request_id(ex, rq->request_id) : -ENOMEM;

    if (r < 0)
        return r;
    if (rq->refusal.status && !rq->gone) {
        tb_http_error_set(&ex->error, rq->refusal.status, rq->refusal.code, "%s", rq->refusal.why);
        exchange_reply_error(ex, true);
        return 0;
    }
    if (exchange_admit(ex, rq, bad_target, t, audit, &close)) {
        r = exchange_start_call(ex, rq, t);
        if (r < 0)
            return r;
        exchange_check(ex);
        if (!ex->replied && rq->expect_continue)
            tb_connection_continue(ex->connection);
        return 0;
    }
    if (rq->gone) { /* whatever it would have been told: nobody hears it */
        ex->error.status = 0;
        tb_connection_abort(ex->connection);
        return 0;
    }
    if (ex->preflight) {
        exchange_reply(ex, &(struct tb_reply){.status = TB_HTTP_NO_CONTENT}, rq->expect_continue);
        return 0;
    }
    /* A client that waits for 100 Continue must not be told to go on, and a large body is not worth
     * reading. */
    exchange_reply_error(ex, close || rq->expect_continue || (rq->has_length && rq->length > DISCARD_MAX));
    return 0;
}

static void *exchange_begin(void *arg, struct tb_connection *c, const struct tb_request *rq)
{
    struct tb_server *s = arg;
    struct tb_exchange *ex = exchange_new(s, c);
    struct tb_target_refusal bad_target;
    struct tb_target target;
    enum tb_admission audit;

    if (!ex)
        return NULL;
    if (!exchange_read_target(ex, rq, &target, &bad_target) || exchange_keep_cors(ex, rq) < 0) {
        exchange_free(ex);
        return NULL;
    }
    ex->head_request = rq->method_len == 4 && memcmp(rq->method, "HEAD", 4) == 0;
    if (!rq->refusal.status)
        exchange_copy_method(ex, rq);
    /* Where the body ends must be certain for our own endpoints too: what follows is the next request. */
    if (!rq->refusal.status && !bad_target.status && tb_health_path(ex->target, ex->path_len) &&
        tb_cors_judge(&s->cors, &ex->cors, ex->method) == TB_CORS_PASS && !tb_request_verify(rq)) {
        exchange_reply_health(ex, rq);
        return ex;
    }
    audit = tb_audit_admit(s->audit);
    if (audit == TB_ADMIT_DROP) {
        tb_metrics_observe(&s->metrics, 0, 0);
        exchange_free(ex);
        return NULL;
    }
    s->metrics.in_flight++;
    if (exchange_decide(ex, rq, &target, &bad_target, audit) < 0)
        tb_connection_abort(c); /* no memory: recorded as it ends */
    return ex;
}

/* --- the body ------------------------------------------------------------------------------------------- */

/* False: not worth reading on. */
static bool exchange_check_size(struct tb_exchange *ex, size_t n)
{
    uint64_t max = ex->server->config->max_body_bytes;

    /* Content-Length was checked before; this is for chunked bodies. */
    if (!ex->error.status && ex->bytes_in + n > max) {
        tb_http_error_set(&ex->error, TB_HTTP_CONTENT_TOO_LARGE, "body_too_large",
                          "the body exceeds %llu bytes", (unsigned long long)max);
        exchange_fail(ex, false);
    }
    if (ex->forwarded)
        return !ex->error.status || ex->bytes_in + n <= max + DISCARD_MAX;
    return ex->bytes_in + n <= DISCARD_MAX;
}

/* A failure of the call, or a refusal that the body has brought, is answered now. */
static void exchange_check(struct tb_exchange *ex)
{
    if (ex->call && tb_call_failed(ex->call))
        exchange_event(ex);
    else if (ex->error.status && !ex->replied)
        exchange_fail(ex, false);
}

static void exchange_note_body(struct tb_exchange *ex, const char *p, size_t n)
{
    EVP_DigestUpdate(ex->sha, p, n);
    ex->bytes_in += n;
}

static size_t exchange_body(void *request, const char *p, size_t n)
{
    struct tb_exchange *ex = request;
    size_t taken = n;

    if (!exchange_check_size(ex, n)) {
        tb_connection_abort(ex->connection);
        return n;
    }
    if (ex->health) {
        ex->bytes_in += n;
        return n;
    }
    if (ex->call) {
        ssize_t r = ex->edits ? tb_metering_upload(ex, p, n) : (ssize_t)tb_call_write(ex->call, p, n);

        if (r < 0) {
            tb_connection_abort(ex->connection);
            return n;
        }
        taken = (size_t)r;
        tb_usage_add(ex->server->usage, TB_USAGE_BYTES_IN, taken);
    }
    exchange_note_body(ex, p, taken);
    exchange_check(ex);
    if (!ex->call && taken < n) { /* nobody is waited for any more */
        exchange_note_body(ex, p + taken, n - taken);
        taken = n;
    }
    return taken;
}

/* The runtime gets what the rewrite still holds, and the end. */
static void exchange_finish_upload(struct tb_exchange *ex)
{
    ex->upload_left = ex->call && ex->edits && !tb_metering_upload_end(ex);
    if (!ex->upload_left && ex->call)
        tb_call_write_end(ex->call);
}

static void exchange_body_end(void *request)
{
    struct tb_exchange *ex = request;

    ex->upload_ended = true;
    tb_record_finish_digest(ex);
    exchange_finish_upload(ex);
    exchange_check(ex);
}

static void exchange_refuse(void *request, const struct tb_refusal *why)
{
    struct tb_exchange *ex = request;

    if (!ex->error.status)
        tb_http_error_set(&ex->error, why->status, why->code, "%s", why->why);
    if (ex->replied)
        tb_connection_abort(ex->connection);
    exchange_fail(ex, true);
}

/* --- the runtime's side --------------------------------------------------------------------------------- */

/* A suspension stops the runtime under its requests; it is written down before that. */
static bool exchange_is_suspended(struct tb_exchange *ex)
{
    struct tb_monitor *w = &ex->server->monitor;

    tb_monitor_look(w);
    return tb_admit_suspended(&w->verdict, tb_lease_over(&w->facts, tb_now_boottime_us()), &ex->error);
}

static void exchange_set_call_error(struct tb_exchange *ex, int failed)
{
    if (exchange_is_suspended(ex))
        return; /* 403 with its reason: trying again would not help this client */
    if (failed == -ETIMEDOUT)
        tb_http_error_set(&ex->error, TB_HTTP_GATEWAY_TIMEOUT, "upstream_timeout",
                          "the runtime did not accept a connection");
    else if (failed == -ECONNREFUSED)
        tb_http_error_set(&ex->error, TB_HTTP_BAD_GATEWAY, "upstream_unreachable",
                          "the runtime is not reachable");
    else
        tb_http_error_set(&ex->error, TB_HTTP_BAD_GATEWAY, "upstream_error",
                          "the runtime gave no valid answer");
}

/* The head of the runtime's answer becomes that of ours. */
static void exchange_answer(struct tb_exchange *ex, const struct tb_response *up)
{
    struct tb_buf *fields = &ex->server->fields;
    struct tb_answer_head h = {.status = up->status, .fields = fields, .length = up->length};
    bool none = ex->head_request || up->status == TB_HTTP_NOT_MODIFIED || up->framing == TB_FRAMING_NONE;

    tb_metering_answer(ex, up);
    tb_buf_clear(fields);
    tb_forward_answer_fields(ex, up, fields, &h.has_date);
    h.announce = none && up->has_length && up->status != TB_HTTP_NO_CONTENT;
    if (none)
        h.framing = TB_FRAMING_NONE;
    else if (up->has_length && !ex->parser.strip) /* stripped: shorter than announced */
        h.framing = TB_FRAMING_LENGTH;
    else
        h.framing = TB_FRAMING_CHUNKED;
    tb_usage_add(ex->server->usage, TB_USAGE_REQUESTS, 1);
    ex->answered = ex->replied = true;
    ex->status = up->status;
    tb_connection_answer(ex->connection, &h);
}

/* The next piece of the answer, as tb_call_peek(). buf: PIECE bytes. */
static ssize_t exchange_next_piece(struct tb_exchange *ex, char *buf, const char **ret)
{
    *ret = buf;
    return ex->metered ? tb_metering_read(ex, buf, PIECE) : tb_call_peek(ex->call, ret);
}

/* Passes on what the runtime has sent, until it is all or the client has enough. */
static void exchange_pump(struct tb_exchange *ex)
{
    for (size_t turn = 0; tb_connection_has_room(ex->connection);) {
        char buf[PIECE];
        const char *p;
        ssize_t n = exchange_next_piece(ex, buf, &p);

        if (n == -EAGAIN)
            return tb_connection_flush(ex->connection);
        if (n < 0) {
            ex->cut = true;
            tb_forward_cancel(ex);
            return tb_connection_abort(ex->connection);
        }
        if (n == 0) {
            ex->reply_ended = true;
            tb_forward_cancel(ex); /* the connection goes back to the pool */
            return tb_connection_write_end(ex->connection);
        }
        ex->bytes_out += (uint64_t)n;
        tb_usage_add(ex->server->usage, TB_USAGE_BYTES_OUT, (uint64_t)n);
        (void)tb_connection_write(ex->connection, p, (size_t)n);
        if (!ex->metered)
            tb_call_consume(ex->call, (size_t)n);
        turn += (size_t)n * (ex->metered ? METERED_COST : 1);
        if (turn >= TURN_BYTES)
            return tb_connection_yield(ex->connection);
    }
}

/* Something has changed at the runtime. */
static void exchange_event(void *arg)
{
    struct tb_exchange *ex = arg;
    int failed = tb_call_failed(ex->call);
    const struct tb_response *up = tb_call_response(ex->call);

    if (up || failed)
        ex->server->heard_us = tb_now_monotonic_us();
    if (failed && !up) {
        exchange_set_call_error(ex, failed);
        exchange_fail(ex, false);
        return tb_connection_resume(ex->connection);
    }
    if (ex->upload_left)
        exchange_finish_upload(ex);
    if (up && !ex->replied)
        exchange_answer(ex, up);
    if (ex->replied && ex->call)
        exchange_pump(ex);
    tb_connection_resume(ex->connection);
}

static void exchange_writable(void *request)
{
    struct tb_exchange *ex = request;

    if (ex->call && ex->replied)
        exchange_pump(ex);
}

static bool exchange_ask(void *request)
{
    struct tb_exchange *ex = request;

    if (!ex->call || !tb_metering_may_comment(ex))
        return false;
    (void)tb_connection_write(ex->connection, ":\n", 2);
    tb_connection_flush(ex->connection);
    return true;
}

/* --- the end -------------------------------------------------------------------------------------------- */

static void exchange_end(void *request, enum tb_end how)
{
    struct tb_exchange *ex = request;
    struct tb_tokens tokens;

    tb_forward_cancel(ex);
    tb_metering_end(ex, how == TB_END_COMPLETE, &tokens);
    tb_quota_end(ex, &tokens);
    tb_record_end(ex, how, &tokens);
    exchange_free(ex);
}

const struct tb_handler tb_exchange_handler = {
    .begin = exchange_begin,
    .hold = tb_hold_request,
    .body = exchange_body,
    .body_end = exchange_body_end,
    .refuse = exchange_refuse,
    .writable = exchange_writable,
    .ask = exchange_ask,
    .end = exchange_end,
};
