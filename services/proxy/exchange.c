/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/exchange.h"

#include <string.h>
#include <strings.h>

#include "proxy/gate/admission.h"
#include "proxy/admin/health.h"
#include "common/hex.h"
#include "common/log.h"
#include "proxy/request_usage.h"
#include "proxy/request_limits.h"
#include "proxy/gate/routes.h"
#include "common/secret.h"
#include "common/units.h"

/* How much of a refused request's body is still read, so that its client gets to see the answer. */
#define DISCARD_MAX (8ULL * 1024 * 1024)

struct tb_exchange *tb_exchange_new(struct tb_server *s, const char *target, struct MHD_Connection *c)
{
    struct tb_exchange *ex = calloc(1, sizeof(*ex));

    if (!ex)
        return NULL;
    ex->server = s;
    ex->mhd = c;
    ex->start_us = tb_now_monotonic_us();
    ex->start_realtime_us = tb_now_realtime_us();
    ex->path_len = strcspn(target, "?");
    ex->target = strdup(target);
    memcpy(ex->method, "-", 2);
    ex->client = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    if (!ex->target || !ex->client) {
        free(ex->target);
        free(ex);
        return NULL;
    }
    ex->client->exchange = ex;
    return ex;
}

/* --- the head ---------------------------------------------------------------------------------------------------- */

static enum MHD_Result connection_field(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                        const char *value, size_t value_len)
{
    if (strcasecmp(name, "Connection") == 0 && value)
        tb_request_connection(arg, value);
    return MHD_YES;
}

struct field_reader {
    struct tb_exchange *ex;
    struct tb_request_head *head;
    int error;
    size_t bytes;
};

static enum MHD_Result any_field(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_len,
                                 const char *value, size_t value_len)
{
    struct field_reader *f = arg;

    f->bytes += name_len + value_len + TB_SERVER_POOL_PER_FIELD;
    if (!value)
        value = "";
    tb_cors_field(&f->ex->cors, name, value);
    /* With keys of our own the runtime sees none; without, it may have one of its own. */
    if (tb_credentials_field(&f->ex->credentials, name, value, value_len) && f->ex->server->keys)
        f->head->bad |= !tb_header_value_valid(value, value_len);
    else
        f->error = tb_request_field(f->head, name, name_len, value, value_len);
    return f->error < 0 ? MHD_NO : MHD_YES;
}

static int read_head(struct tb_exchange *ex, struct tb_request_head *h)
{
    struct field_reader f = {.ex = ex, .head = h};

    MHD_get_connection_values_n(ex->mhd, MHD_HEADER_KIND, connection_field, h);
    MHD_get_connection_values_n(ex->mhd, MHD_HEADER_KIND, any_field, &f);
    ex->head_bytes = strlen(ex->target) + f.bytes;
    return f.error;
}

static int set_request_id(struct tb_exchange *ex, const char *given)
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

/* Fields that are ours to write. */
static int add_own_lines(struct tb_exchange *ex, struct tb_request_head *h)
{
    struct tb_buf *b = &h->lines;
    int r = 0;

    if (h->n_hosts == 0)
        r = tb_buf_printf(b, "Host: %s\r\n", tb_upstream_host(ex->server->upstream));
    if (r >= 0)
        r = tb_buf_puts(b, "X-Forwarded-For: ");
    if (r >= 0 && h->forwarded_for)
        r = tb_buf_puts(b, h->forwarded_for);
    if (r >= 0)
        r = tb_buf_printf(b,
                          "%s%s\r\nX-Forwarded-Proto: %s\r\nX-Request-Id: %s\r\n"
                          "Accept-Encoding: identity\r\n", /* what is to be counted must be read */
                          h->forwarded_for ? ", " : "", ex->client->addr, ex->server->tls ? "https" : "http",
                          ex->request_id);
    return r;
}

static void call_event(void *arg)
{
    tb_exchange_resume(arg);
}

static int start_call(struct tb_exchange *ex, struct tb_request_head *h)
{
    struct tb_call_request rq = {
        .method = ex->method,
        .target = ex->target,
        .lines = &h->lines,
        .body = h->chunked      ? TB_FRAMING_CHUNKED
                : h->has_length ? TB_FRAMING_LENGTH
                                : TB_FRAMING_NONE,
        .length = h->length + (ex->grows ? TB_REWRITE_GROWTH : 0),
        .on_event = call_event,
        .arg = ex,
    };
    int r = add_own_lines(ex, h);

    ex->forwarded = true;
    return r < 0 ? r : tb_call_start(ex->server->upstream, &rq, &ex->call);
}

static int decide(struct tb_exchange *ex, struct tb_request_head *h, enum tb_admission audit, bool *ret_close)
{
    struct tb_server *s = ex->server;
    struct tb_admit_request rq = {
        .method = ex->method,
        .target = ex->target,
        .head = h,
        .credentials = &ex->credentials,
        .cors = &ex->cors,
        .cors_policy = &s->cors,
        .audit = audit,
        .verdict = &s->watch.verdict,
        .lease_over = tb_lease_over(&s->watch.facts, tb_now_boottime_us()),
        .keys = s->keys ? tb_key_store_keys(s->keys) : NULL,
        .routes = s->config->routes,
        .max_body = s->config->max_body_bytes,
    };
    struct tb_admit_result result;

    tb_admit(&rq, &result);
    if (result.key) {
        memcpy(ex->key_name, result.key->name, sizeof(ex->key_name));
        ex->account = tb_key_account_use(result.key);
    }
    ex->preflight = result.preflight;
    if (ex->preflight)
        return 0;
    if (result.error.status == 0 && ex->head_bytes + 2 * TB_SERVER_POOL_SPARE > TB_SERVER_POOL_BYTES)
        tb_http_error_set(&result.error, MHD_HTTP_REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large",
                          "the header fields of the request are too large");
    if (result.error.status == 0)
        tb_metering_begin(ex, h);
    if (result.error.status == 0 && tb_quota_enter(ex, h))
        return start_call(ex, h);
    if (result.error.status)
        ex->error = result.error;
    /* A client that waits for 100 Continue must not be told to go on, and a large body is not worth reading. */
    *ret_close = result.must_close || h->expect || (h->has_length && h->length > DISCARD_MAX);
    return 0;
}

int tb_exchange_begin(struct tb_exchange *ex, const char *method, bool *ret_close)
{
    _cleanup_(tb_request_head_clear) struct tb_request_head head = {0};
    enum tb_admission audit;
    size_t path_len;
    int r;

    ex->begun = true;
    snprintf(ex->method, sizeof(ex->method), "%s", method);
    *ret_close = false;
    r = read_head(ex, &head);
    /* Where the body ends must be certain for our own endpoints too: what follows is the next request. */
    if (r >= 0 && !tb_target_check(ex->target, &path_len) && tb_health_path(ex->target, path_len) &&
        !tb_request_check(&head)) {
        ex->health = true;
        return 0;
    }
    ex->server->metrics.in_flight++;
    audit = tb_audit_admit(ex->server->audit);
    if (audit == TB_ADMIT_DROP) {
        ex->dropped = true;
        return -ECONNABORTED;
    }
    ex->sha = EVP_MD_CTX_new();
    if (!ex->sha || EVP_DigestInit_ex(ex->sha, EVP_sha256(), NULL) != 1)
        return -ENOMEM;
    if (r >= 0)
        r = set_request_id(ex, head.request_id);
    return r < 0 ? r : decide(ex, &head, audit, ret_close);
}

/* --- the body ---------------------------------------------------------------------------------------------------- */

ssize_t tb_exchange_upload(struct tb_exchange *ex, const char *p, size_t n)
{
    const struct tb_server *s = ex->server;
    size_t taken = n;

    if (ex->health)
        return (ssize_t)n;
    /* Content-Length was checked before; this is for chunked bodies. */
    if (!ex->error.status && ex->bytes_in + n > s->config->max_body_bytes) {
        tb_http_error_set(&ex->error, MHD_HTTP_CONTENT_TOO_LARGE, "body_too_large",
                          "the body exceeds %llu bytes", (unsigned long long)s->config->max_body_bytes);
        tb_exchange_cancel(ex);
    }
    if (ex->error.status && ex->bytes_in + n > MAX(DISCARD_MAX, s->config->max_body_bytes + DISCARD_MAX))
        return -EFBIG;
    if (ex->call) {
        ssize_t r = ex->edits ? tb_metering_upload(ex, p, n) : (ssize_t)tb_call_write(ex->call, p, n);

        if (r < 0)
            return r;
        taken = (size_t)r;
        tb_usage_add(s->usage, TB_USAGE_BYTES_IN, taken);
    }
    EVP_DigestUpdate(ex->sha, p, taken);
    ex->bytes_in += taken;
    return (ssize_t)taken;
}

static void finish_digest(struct tb_exchange *ex)
{
    uint8_t md[32];
    unsigned len;

    if (ex->sha256[0])
        return;
    if (ex->sha && EVP_DigestFinal_ex(ex->sha, md, &len) == 1)
        tb_hex_encode(md, sizeof(md), ex->sha256);
    EVP_MD_CTX_free(ex->sha);
    ex->sha = NULL;
}

bool tb_exchange_upload_end(struct tb_exchange *ex)
{
    if (!ex->upload_ended) {
        ex->upload_ended = true;
        finish_digest(ex);
    }
    if (ex->call && ex->edits && !tb_metering_upload_end(ex))
        return false;
    if (ex->call)
        tb_call_write_end(ex->call);
    return true;
}

/* --- the runtime's side ------------------------------------------------------------------------------------------ */

/* A suspension stops the runtime under its requests; it is written down before that. */
static bool suspended_meanwhile(struct tb_exchange *ex)
{
    struct tb_watch *w = &ex->server->watch;

    tb_watch_look(w);
    return tb_admit_suspended(&w->verdict, tb_lease_over(&w->facts, tb_now_boottime_us()), &ex->error);
}

void tb_exchange_check_call(struct tb_exchange *ex)
{
    int failed = ex->call ? tb_call_failed(ex->call) : 0;

    if (!failed)
        return;
    if (suspended_meanwhile(ex))
        ; /* 403 with its reason: trying again would not help this client */
    else if (failed == -ETIMEDOUT)
        tb_http_error_set(&ex->error, MHD_HTTP_GATEWAY_TIMEOUT, "upstream_timeout",
                          "the runtime did not accept a connection");
    else if (failed == -ECONNREFUSED)
        tb_http_error_set(&ex->error, MHD_HTTP_BAD_GATEWAY, "upstream_unreachable",
                          "the runtime is not reachable");
    else
        tb_http_error_set(&ex->error, MHD_HTTP_BAD_GATEWAY, "upstream_error",
                          "the runtime gave no valid answer");
    tb_exchange_cancel(ex);
}

void tb_exchange_cancel(struct tb_exchange *ex)
{
    tb_call_free(ex->call);
    ex->call = NULL;
}

void tb_exchange_resume(struct tb_exchange *ex)
{
    if (!ex->suspended)
        return;
    ex->suspended = false;
    ex->server->run_http = true;
    MHD_resume_connection(ex->mhd);
}

/* --- the books --------------------------------------------------------------------------------------------------- */

/* Neither the runtime nor we answered: libmicrohttpd did, or was about to. */
static bool refused_by_itself(const struct tb_exchange *ex, enum MHD_RequestTerminationCode code)
{
    bool completed = code == MHD_REQUEST_TERMINATED_COMPLETED_OK;
    /* In the middle of a body: it has just said so. */
    bool told = code == MHD_REQUEST_TERMINATED_WITH_ERROR && !ex->replied && ex->server->unnamed.n > 0;

    return !ex->cut && !(completed && ex->status) && !ex->client->too_slow &&
           (completed || !ex->begun || told);
}

/* The status that stands in the record, and why when it is not simply what the runtime or we answered. */
static int final_status(const struct tb_exchange *ex, enum MHD_RequestTerminationCode code,
                        const char **ret_error)
{
    *ret_error = ex->error.code;
    if (ex->cut) {
        *ret_error = "upstream_aborted";
        return MHD_HTTP_BAD_GATEWAY;
    }
    if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK && ex->status)
        return ex->status;
    if (ex->client->too_slow) {
        *ret_error = "client_timeout";
        return ex->replied ? 499 : MHD_HTTP_REQUEST_TIMEOUT;
    }
    if (refused_by_itself(ex, code)) {
        const union MHD_ConnectionInfo *i = MHD_get_connection_info(ex->mhd, MHD_CONNECTION_INFO_HTTP_STATUS);

        *ret_error = "malformed_request";
        if (ex->server->unnamed.n > 0)
            return (int)ex->server->unnamed.status;
        return i ? (int)i->http_status : MHD_HTTP_BAD_REQUEST;
    }
    if (code == MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN) {
        *ret_error = "proxy_stopped";
        return MHD_HTTP_SERVICE_UNAVAILABLE;
    }
    if (ex->error.status)
        return ex->error.status;
    *ret_error = code == MHD_REQUEST_TERMINATED_TIMEOUT_REACHED && !ex->client->gone ? "client_timeout"
                                                                                     : "client_closed";
    return 499;
}

static void submit(struct tb_exchange *ex, int status, const char *error, uint64_t latency_us,
                   const struct tb_tokens *tokens)
{
    struct tb_audit_record *r = calloc(1, sizeof(*r));

    if (!r)
        abort(); /* no memory for a record that must exist: start afresh */
    finish_digest(ex);
    *r = (struct tb_audit_record){
        .start_realtime_us = ex->start_realtime_us,
        .req_complete = ex->upload_ended,
        .unidentified = !ex->key_name[0] && !ex->forwarded,
        .status = status,
        .latency_ms = latency_us / 1000,
        .bytes_in = ex->bytes_in,
        .bytes_out = ex->bytes_out,
        .has_tokens = tokens->known,
        .estimated = tokens->estimated,
        .prompt_tokens = tokens->prompt,
        .completion_tokens = tokens->completion,
        .cached_tokens = tokens->cached,
    };
    memcpy(r->method, ex->method, sizeof(r->method));
    memcpy(r->req_sha256, ex->sha256, sizeof(r->req_sha256));
    memcpy(r->request_id, ex->request_id, sizeof(r->request_id));
    memcpy(r->client, ex->client->addr, sizeof(r->client));
    memcpy(r->key_name, ex->key_name, sizeof(r->key_name));
    snprintf(r->error, sizeof(r->error), "%s", error);
    tb_audit_record_set_path(r, ex->target, ex->path_len);
    tb_audit_submit(ex->server->audit, r);
}

void tb_exchange_end(struct tb_exchange *ex, enum MHD_RequestTerminationCode code)
{
    struct tb_server *s = ex->server;
    uint64_t now = tb_now_monotonic_us();
    struct tb_tokens tokens;
    const char *error;
    int status = final_status(ex, code, &error);

    if (s->unnamed.n > 0 && refused_by_itself(ex, code))
        s->unnamed.n--; /* it has a name, and this record */
    s->last_done_us = now;
    tb_client_idle(ex->client);
    tb_metering_end(ex, code == MHD_REQUEST_TERMINATED_COMPLETED_OK, &tokens);
    tb_quota_end(ex, &tokens);
    tb_exchange_cancel(ex);
    if (!ex->health) {
        if (!ex->begun) /* never admitted; takes its slot now */
            ex->dropped = tb_audit_admit(s->audit) == TB_ADMIT_DROP;
        else
            s->metrics.in_flight--;
        tb_metrics_observe(&s->metrics, status, now - ex->start_us);
        tb_recent_add(&s->recent, ex->method, ex->target, ex->path_len, status, now - ex->start_us);
        if (!ex->dropped)
            submit(ex, status, error, now - ex->start_us, &tokens);
    }
    EVP_MD_CTX_free(ex->sha);
    free(ex->target);
    free(ex);
}

void tb_exchange_unnamed(struct tb_server *s, const char *client, unsigned status)
{
    struct tb_audit_record *r;

    tb_metrics_observe(&s->metrics, (int)status, 0);
    tb_recent_add(&s->recent, "-", "-", 1, (int)status, 0);
    if (tb_audit_admit(s->audit) == TB_ADMIT_DROP)
        return;
    r = calloc(1, sizeof(*r));
    if (!r)
        abort(); /* as above */
    r->unidentified = true;
    tb_audit_record_set_path(r, "-", 1);
    r->start_realtime_us = tb_now_realtime_us();
    r->status = (int)status;
    snprintf(r->method, sizeof(r->method), "-");
    snprintf(r->client, sizeof(r->client), "%s", client);
    snprintf(r->error, sizeof(r->error), "malformed_request");
    tb_audit_submit(s->audit, r);
}
