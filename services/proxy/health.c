/* SPDX-License-Identifier: Apache-2.0 */
#include "health.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "http_error.h"
#include "json.h"
#include "units.h"

#define RETRY_AFTER_S "5"

static bool is(const char *path, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(path, name, len) == 0;
}

bool tb_health_path(const char *path, size_t len)
{
    return is(path, len, "/health") || is(path, len, "/readiness") || is(path, len, "/status");
}

uint64_t tb_server_requests(const struct tb_server *s)
{
    return tb_usage_get(s->usage, TB_USAGE_REQUESTS) - s->requests_at_start;
}

static enum MHD_Result queue(struct tb_server *s, struct MHD_Connection *c, int status,
                             struct MHD_Response *rs)
{
    enum MHD_Result r;

    if (!rs)
        return MHD_NO;
    if (s->draining)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_CONNECTION, "close");
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_RETRY_AFTER, RETRY_AFTER_S);
    r = MHD_queue_response(c, (unsigned)status, rs);
    MHD_destroy_response(rs);
    return r;
}

static enum MHD_Result answer_probe(struct tb_server *s, struct MHD_Connection *c, bool good,
                                    const char *word)
{
    char text[128];

    if (good)
        return queue(s, c, MHD_HTTP_OK,
                     tb_http_text_response(word, strlen(word), "text/plain; charset=utf-8"));
    snprintf(text, sizeof(text), "Not ready: %s", tb_state_name(s->watch.verdict.state));
    return queue(s, c, MHD_HTTP_SERVICE_UNAVAILABLE,
                 tb_http_text_response(text, strlen(text), "text/plain; charset=utf-8"));
}

static int add_step(cJSON *doc, const char *name, const struct tb_step *step)
{
    cJSON *o = cJSON_AddObjectToObject(doc, name);

    if (!o || (step->work != TB_WORK_ABSENT && !cJSON_AddStringToObject(o, "state", step->phase)) ||
        (step->reason[0] && !cJSON_AddStringToObject(o, "reason", step->reason)))
        return -ENOMEM;
    if (tb_json_add_uint(o, "bytes_done", step->bytes_done) < 0)
        return -ENOMEM;
    return tb_json_add_uint(o, "bytes_total", step->bytes_total);
}

/* Where the audit chain stands, for whoever keeps it on another machine. */
static int add_audit(cJSON *doc, struct tb_audit *audit)
{
    cJSON *o = cJSON_AddObjectToObject(doc, "audit");
    struct tb_audit_stats st;

    tb_audit_get_stats(audit, &st);
    if (!o || tb_json_add_uint(o, "seq", st.seq) < 0 || !cJSON_AddStringToObject(o, "head", st.head))
        return -ENOMEM;
    return 0;
}

static char *status_text(const struct tb_server *s)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    const struct tb_watch *w = &s->watch;
    bool ready = w->verdict.state == TB_STATE_READY, suspended = w->verdict.state == TB_STATE_SUSPENDED;
    char since[TB_RFC3339_MAX];

    tb_rfc3339_format(w->since_realtime_us, 1, since);
    if (!doc || !cJSON_AddStringToObject(doc, "state", tb_state_name(w->verdict.state)) ||
        !cJSON_AddStringToObject(doc, "asset_id", s->config->asset_id) ||
        !cJSON_AddStringToObject(doc, "contract_id", s->config->contract_id) ||
        tb_json_add_uint(doc, "uptime_seconds", (tb_now_monotonic_us() - s->started_us) / TB_USEC_PER_SEC) <
            0 ||
        tb_json_add_uint(doc, "requests_processed", tb_server_requests(s)) < 0 ||
        !cJSON_AddBoolToObject(doc, "ready", ready) || !cJSON_AddBoolToObject(doc, "suspended", suspended) ||
        !cJSON_AddStringToObject(doc, "reason", w->verdict.reason) ||
        !cJSON_AddStringToObject(doc, "since", since))
        return NULL;
    if (w->facts.expires_at[0] ? !cJSON_AddStringToObject(doc, "lease_expires_at", w->facts.expires_at)
                               : !cJSON_AddNullToObject(doc, "lease_expires_at"))
        return NULL;
    if (add_step(doc, "hydrate", &w->facts.hydrate) < 0 || add_step(doc, "decrypt", &w->facts.decrypt) < 0 ||
        add_audit(doc, s->audit) < 0)
        return NULL;
    return cJSON_Print(doc);
}

static enum MHD_Result answer_status(struct tb_server *s, struct MHD_Connection *c)
{
    _cleanup_free_ char *text = status_text(s);

    return text ? queue(s, c, MHD_HTTP_OK, tb_http_text_response(text, strlen(text), "application/json"))
                : MHD_NO;
}

static enum MHD_Result answer_metrics(struct tb_server *s, struct MHD_Connection *c)
{
    _cleanup_buf_ struct tb_buf b = {0};

    if (tb_metrics_format(s, &b) < 0)
        return MHD_NO;
    return queue(s, c, MHD_HTTP_OK,
                 tb_http_text_response(b.data, b.len, "text/plain; version=0.0.4; charset=utf-8"));
}

enum MHD_Result tb_health_answer(struct tb_server *s, struct MHD_Connection *c, const char *method,
                                 const char *path, size_t len, bool metrics)
{
    enum tb_state state = s->watch.verdict.state;
    struct tb_http_error e;

    metrics = metrics && is(path, len, "/metrics");
    if (!metrics && !tb_health_path(path, len)) {
        tb_http_error_set(&e, MHD_HTTP_NOT_FOUND, "not_found",
                          "there are /health, /readiness, /status and /metrics here");
        return queue(s, c, e.status, tb_http_error_response(&e));
    }
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        tb_http_error_set(&e, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed", "use GET or HEAD");
        return queue(s, c, e.status, tb_http_error_response(&e));
    }
    if (metrics)
        return answer_metrics(s, c);
    if (is(path, len, "/status"))
        return answer_status(s, c);
    if (is(path, len, "/health"))
        return answer_probe(s, c, state == TB_STATE_READY, "OK");
    return answer_probe(s, c, state == TB_STATE_READY || state == TB_STATE_DECRYPT, "Ready");
}

enum MHD_Result tb_health_handler(void *cls, struct MHD_Connection *c, const char *url, const char *method,
                                  const char *version, const char *upload, size_t *upload_size,
                                  void **con_cls)
{
    if (!*con_cls) { /* the head only; answering now would cost the connection */
        *con_cls = cls;
        return MHD_YES;
    }
    if (*upload_size > 0) {
        *upload_size = 0;
        return MHD_YES;
    }
    return tb_health_answer(cls, c, method, url, strlen(url), true);
}
