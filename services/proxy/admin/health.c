/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/health.h"

#include <cjson/cJSON.h>
#include <string.h>

#include "proxy/admin/mhd_response.h"
#include "common/attestation.h"
#include "common/json.h"
#include "common/picture.h"
#include "proxy/admin/page.h"
#include "proxy/admin/page_assets.h"
#include "common/text.h"
#include "common/units.h"

#define RETRY_AFTER_S "5"

static bool health_is(const char *path, size_t len, const char *name)
{
    return strlen(name) == len && memcmp(path, name, len) == 0;
}

bool tb_health_path(const char *path, size_t len)
{
    return health_is(path, len, "/health") || health_is(path, len, "/readiness") ||
           health_is(path, len, "/status");
}

static enum MHD_Result health_queue(struct tb_server *s, struct MHD_Connection *c, int status,
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

/* The word when requests are served; else state and reason, with a status of the caller's choice. */
static void health_reply_probe(const struct tb_verdict *v, int status, const char *word, struct tb_reply *ret)
{
    char text[TB_REASON_MAX + 64];

    if (v->state == TB_STATE_READY)
        return tb_reply_text(ret, TB_HTTP_OK, word, strlen(word), "text/plain; charset=utf-8");
    snprintf(text, sizeof(text), "Not ready: %s%s%s", tb_state_name(v->state), v->reason[0] ? ": " : "",
             v->reason);
    tb_text_plain(text);
    if (status == TB_HTTP_OK)
        return tb_reply_text(ret, status, text, strlen(text), "text/plain; charset=utf-8");
    tb_reply_text(ret, TB_HTTP_SERVICE_UNAVAILABLE, text, strlen(text), "text/plain; charset=utf-8");
    tb_reply_field(ret, "Retry-After", RETRY_AFTER_S);
}

static int health_add_step(cJSON *doc, const char *name, const struct tb_step *step,
                           const struct tb_picture_part *part, const struct tb_picture *source)
{
    cJSON *o = cJSON_AddObjectToObject(doc, name);

    if (!o || (step->work != TB_WORK_ABSENT && !cJSON_AddStringToObject(o, "state", step->phase)) ||
        (step->reason[0] && !cJSON_AddStringToObject(o, "reason", step->reason)) ||
        tb_json_add_uint(o, "bytes_done", part->done) < 0 ||
        tb_json_add_uint(o, "bytes_total", part->total) < 0)
        return -ENOMEM;
    if (tb_picture_add_part(o, part) < 0)
        return -ENOMEM;
    return source ? tb_picture_add_source(o, source) : 0;
}

/* The model on its way; names of its files are the operator's. */
static int health_add_model(cJSON *doc, const struct tb_facts *f, enum tb_health_view view)
{
    const struct tb_step *d = &f->delivery;
    struct tb_picture picture;
    cJSON *o = NULL;

    tb_picture_make(f, tb_now_boottime_us(), &picture);
    if (health_add_step(doc, "hydrate", &f->hydrate, &picture.download, &picture) < 0 ||
        health_add_step(doc, "decrypt", &f->decrypt, &picture.decrypt, NULL) < 0)
        return -ENOMEM;
    if (d->work != TB_WORK_ABSENT) {
        o = cJSON_AddObjectToObject(doc, "delivery");
        if (!o || !cJSON_AddStringToObject(o, "state", d->phase) ||
            !cJSON_AddStringToObject(o, "mode", d->mode) || tb_picture_add_delivery(o, &picture) < 0)
            return -ENOMEM;
    }
    return tb_repairs_add(doc, picture.repairs, view >= TB_HEALTH_OPERATOR);
}

/* Where the audit chain stands, for whoever keeps it on another machine. */
static int health_add_audit(cJSON *doc, struct tb_audit *audit)
{
    cJSON *o = cJSON_AddObjectToObject(doc, "audit");
    struct tb_audit_stats st;

    tb_audit_get_stats(audit, &st);
    if (!o || tb_json_add_uint(o, "seq", st.seq) < 0 || !cJSON_AddStringToObject(o, "head", st.head))
        return -ENOMEM;
    return 0;
}

/* The places where things are put, with what is left there. */
static int health_add_places(cJSON *doc, const struct tb_place places[static _TB_PLACE_MAX])
{
    cJSON *a = cJSON_AddArrayToObject(doc, "places");

    for (int i = 0; a && i < _TB_PLACE_MAX; i++) {
        cJSON *o;

        if (!places[i].known)
            continue;
        o = cJSON_CreateObject();
        if (!cJSON_AddItemToArray(a, o) || !cJSON_AddStringToObject(o, "name", tb_place_name(i)) ||
            !cJSON_AddStringToObject(o, "path", places[i].path) ||
            tb_json_add_uint(o, "device", places[i].device) < 0 ||
            tb_json_add_uint(o, "size_bytes", places[i].size_bytes) < 0 ||
            tb_json_add_uint(o, "free_bytes", places[i].free_bytes) < 0 ||
            tb_json_add_uint(o, "low_bytes", places[i].low_bytes) < 0 ||
            tb_json_add_uint(o, "files", places[i].files) < 0 ||
            tb_json_add_uint(o, "free_files", places[i].free_files) < 0)
            return -ENOMEM;
    }
    return a ? 0 : -ENOMEM;
}

static int health_add_certificate(cJSON *doc, const struct tb_certificate *c)
{
    cJSON *o = c->path[0] ? cJSON_AddObjectToObject(doc, "server_cert") : NULL;
    char text[TB_RFC3339_MAX];

    if (!c->path[0])
        return 0;
    if (!o || !cJSON_AddStringToObject(o, "path", c->path) ||
        (c->error[0] && !cJSON_AddStringToObject(o, "error", c->error)) ||
        (c->from_us > 0 &&
         !cJSON_AddStringToObject(o, "not_before", tb_rfc3339_format(c->from_us, 0, text))) ||
        (c->until_us > 0 &&
         !cJSON_AddStringToObject(o, "expires_at", tb_rfc3339_format(c->until_us, 0, text))))
        return -ENOMEM;
    return 0;
}

/* What tb-status looks at from outside. */
static int health_add_surroundings(cJSON *doc, struct tb_server *s)
{
    struct tb_surroundings_seen seen;

    tb_surroundings_get(&s->surroundings, &seen);
    if (!cJSON_AddStringToObject(doc, "public_addr", s->public_addr) ||
        tb_json_add_uint(doc, "runtime_silent_seconds",
                         tb_server_silent_us(s, tb_now_monotonic_us()) / TB_USEC_PER_SEC) < 0 ||
        tb_json_add_uint(doc, "state_files_put_back", s->state_files.put_back) < 0 ||
        (s->keys && tb_key_store_trouble(s->keys)[0] &&
         !cJSON_AddStringToObject(doc, "api_keys_trouble", tb_key_store_trouble(s->keys))) ||
        (s->state_files.trouble[0] &&
         !cJSON_AddStringToObject(doc, "state_files_trouble", s->state_files.trouble)) ||
        health_add_places(doc, seen.places) < 0)
        return -ENOMEM;
    return health_add_certificate(doc, &seen.server);
}

/* The version that serves, the next one, and what becomes of it. */
static int health_add_version(cJSON *doc, const struct tb_facts *f)
{
    const struct tb_update *u = &f->update;
    cJSON *o = u->serving ? cJSON_AddObjectToObject(doc, "asset_version") : NULL;
    char at[TB_RFC3339_MAX];

    if (!u->serving)
        return 0;
    if (!o || tb_json_add_uint(o, "serving", u->serving) < 0 ||
        (u->next && tb_json_add_uint(o, "next", u->next) < 0) ||
        !cJSON_AddStringToObject(o, "state", tb_update_phase_name(u->phase)) ||
        !cJSON_AddStringToObject(o, "when", u->when) ||
        (u->reason[0] && !cJSON_AddStringToObject(o, "reason", u->reason)))
        return -ENOMEM;
    if (u->switch_at_real_us &&
        !cJSON_AddStringToObject(o, "switch_at", tb_rfc3339_format(u->switch_at_real_us, 0, at)))
        return -ENOMEM;
    if (u->phase != TB_UPDATE_DOWNLOADING || tb_next_percent(f) < 0)
        return 0;
    return tb_json_add_uint(o, "percent", (uint64_t)tb_next_percent(f));
}

static int health_add_details(cJSON *doc, struct tb_server *s)
{
    const char *expires_at = s->monitor.facts.expires_at;

    if (!cJSON_AddStringToObject(doc, "asset_id", s->config->asset_id) ||
        !cJSON_AddStringToObject(doc, "contract_id", s->config->contract_id) ||
        tb_json_add_uint(doc, "requests_processed", tb_server_requests(s)) < 0 ||
        health_add_version(doc, &s->monitor.facts) < 0 || tb_attestation_add(doc, &s->monitor.facts) < 0)
        return -ENOMEM;
    if (expires_at[0] ? !cJSON_AddStringToObject(doc, "lease_expires_at", expires_at)
                      : !cJSON_AddNullToObject(doc, "lease_expires_at"))
        return -ENOMEM;
    return health_add_audit(doc, s->audit);
}

static char *health_status(struct tb_server *s, enum tb_health_view view)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    _cleanup_free_ char *text = NULL;
    const struct tb_monitor *w = &s->monitor;
    const struct tb_verdict *v = tb_monitor_verdict(&s->monitor);
    bool ready = v->state == TB_STATE_READY, suspended = v->state == TB_STATE_SUSPENDED;
    char since[TB_RFC3339_MAX];

    tb_rfc3339_format(w->since_realtime_us, 1, since);
    if (!doc || !cJSON_AddStringToObject(doc, "state", tb_state_name(v->state)) ||
        tb_json_add_uint(doc, "uptime_seconds", (tb_now_monotonic_us() - s->started_us) / TB_USEC_PER_SEC) <
            0 ||
        !cJSON_AddBoolToObject(doc, "ready", ready) || !cJSON_AddBoolToObject(doc, "suspended", suspended) ||
        !cJSON_AddStringToObject(doc, "reason", v->reason) || !cJSON_AddStringToObject(doc, "since", since))
        return NULL;
    if (health_add_model(doc, &w->facts, view) < 0 ||
        (view >= TB_HEALTH_CLIENT && health_add_details(doc, s) < 0) ||
        (view >= TB_HEALTH_OPERATOR && health_add_surroundings(doc, s) < 0))
        return NULL;
    text = cJSON_Print(doc);
    return text ? tb_text_plain_json(text)
                : NULL; /* reasons are of foreign origin, and curl shows them on a terminal */
}

static void health_reply_status(struct tb_server *s, enum tb_health_view view, struct tb_reply *ret)
{
    _cleanup_free_ char *text = health_status(s, view);

    if (text)
        tb_reply_text(ret, TB_HTTP_OK, text, strlen(text), "application/json");
    else
        ret->body.error = -ENOMEM;
}

static enum MHD_Result health_answer_metrics(struct tb_server *s, struct MHD_Connection *c)
{
    _cleanup_buf_ struct tb_buf b = {0};

    (void)tb_monitor_verdict(&s->monitor);
    if (tb_metrics_format(s, &b) < 0)
        return MHD_NO;
    return health_queue(s, c, MHD_HTTP_OK,
                        tb_mhd_text(b.data, b.len, "text/plain; version=0.0.4; charset=utf-8"));
}

static enum MHD_Result health_answer_error(struct tb_server *s, struct MHD_Connection *c, int status,
                                           const char *code, const char *message)
{
    struct tb_http_error e;

    tb_http_error_set(&e, status, code, "%s", message);
    return health_queue(s, c, status, tb_mhd_error(&e));
}

static bool health_is_read(const char *method)
{
    return strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
}

static enum MHD_Result health_answer_method(struct tb_server *s, struct MHD_Connection *c)
{
    return health_answer_error(s, c, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed", "use GET or HEAD");
}

void tb_health_reply(struct tb_server *s, const char *method, const char *path, size_t len,
                     enum tb_health_view view, struct tb_reply *ret)
{
    const struct tb_verdict *v = tb_monitor_verdict(&s->monitor);
    struct tb_http_error e;

    if (!health_is_read(method)) {
        tb_http_error_set(&e, TB_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed", "use GET or HEAD");
        tb_reply_fail(ret, &e);
        return tb_reply_field(ret, "Allow", "GET, HEAD");
    }
    if (health_is(path, len, "/status"))
        return health_reply_status(s, view, ret);
    if (health_is(path, len, "/health"))
        return health_reply_probe(v, TB_HTTP_SERVICE_UNAVAILABLE, "OK", ret);
    /* On its way from the ciphertext to the runtime it is as good as there; not when that has failed. */
    health_reply_probe(v,
                       v->state == TB_STATE_DECRYPT && !v->failed ? TB_HTTP_OK : TB_HTTP_SERVICE_UNAVAILABLE,
                       "Ready", ret);
}

/* --- what only the health port has ---------------------------------------------------------------------- */

static struct MHD_Response *health_page_response(const char *text, size_t len, const char *content_type)
{
    struct MHD_Response *rs = tb_mhd_text(text, len, content_type);

    if (!rs)
        return NULL;
    MHD_add_response_header(rs, "Content-Security-Policy", TB_PAGE_POLICY);
    MHD_add_response_header(rs, "Referrer-Policy", "no-referrer");
    return rs;
}

static enum MHD_Result health_answer_page(struct tb_server *s, struct MHD_Connection *c)
{
    _cleanup_buf_ struct tb_buf b = {0};

    (void)tb_monitor_verdict(&s->monitor);
    if (tb_page_html(s, &b) < 0)
        return MHD_NO;
    return health_queue(s, c, MHD_HTTP_OK, health_page_response(b.data, b.len, "text/html; charset=utf-8"));
}

static enum MHD_Result health_answer_events(struct tb_server *s, struct MHD_Connection *c, const char *method)
{
    struct MHD_Response *rs;

    if (strcmp(method, "GET") != 0)
        return health_answer_error(s, c, MHD_HTTP_METHOD_NOT_ALLOWED, "method_not_allowed", "use GET");
    rs = tb_events_response(s, c);
    return rs ? health_queue(s, c, MHD_HTTP_OK, rs)
              : health_answer_error(s, c, MHD_HTTP_SERVICE_UNAVAILABLE, "too_many_viewers",
                                    "too many viewers; try again later");
}

static enum MHD_Result health_answer_runtime_metrics(struct tb_server *s, struct MHD_Connection *c,
                                                     void **con_cls)
{
    struct tb_runtime_fetch *f;

    if (!s->monitor.facts.runtime_healthy)
        return health_answer_error(s, c, MHD_HTTP_SERVICE_UNAVAILABLE, "not_ready", "the runtime is not up");
    f = tb_runtime_fetch_start(s, c);
    if (!f)
        return health_answer_error(s, c, MHD_HTTP_SERVICE_UNAVAILABLE, "busy",
                                   "too many requests for the metrics of the runtime; try again");
    *con_cls = f;
    return MHD_YES;
}

static enum MHD_Result health_answer_probe(struct tb_server *s, struct MHD_Connection *c, const char *method,
                                           const char *path)
{
    struct tb_reply r = {0};
    struct MHD_Response *rs;
    enum MHD_Result result;

    tb_health_reply(s, method, path, strlen(path), TB_HEALTH_OPERATOR, &r);
    rs = tb_mhd_response(&r);
    if (!rs)
        return MHD_NO;
    if (s->draining)
        MHD_add_response_header(rs, MHD_HTTP_HEADER_CONNECTION, "close");
    result = MHD_queue_response(c, (unsigned)r.status, rs);
    MHD_destroy_response(rs);
    return result;
}

static enum MHD_Result health_answer(struct tb_server *s, struct MHD_Connection *c, const char *method,
                                     const char *path, void **con_cls)
{
    const struct tb_page_asset *asset = tb_page_asset(path, strlen(path));
    const char *runtime;

    if (tb_health_path(path, strlen(path)))
        return health_answer_probe(s, c, method, path);
    if (!asset && strcmp(path, "/") != 0 && strcmp(path, "/events") != 0 && strcmp(path, "/metrics") != 0)
        return health_answer_error(s, c, MHD_HTTP_NOT_FOUND, "not_found",
                                   "there are /, /health, /readiness, /status, /events and /metrics here");
    if (!health_is_read(method))
        return health_answer_method(s, c);
    if (asset)
        return health_queue(s, c, MHD_HTTP_OK,
                            health_page_response(asset->text, strlen(asset->text), asset->content_type));
    if (path[1] == '\0')
        return health_answer_page(s, c);
    if (path[1] == 'e')
        return health_answer_events(s, c, method);
    runtime = MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, "runtime");
    if (runtime && strcmp(runtime, "1") == 0)
        return health_answer_runtime_metrics(s, c, con_cls);
    return health_answer_metrics(s, c);
}

/* *con_cls: NULL, then the server once the head was seen, then a question to the runtime when there is
 * one. */
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
    if (*con_cls != cls)
        return tb_runtime_fetch_answer(*con_cls);
    tb_health_connection_busy(&((struct tb_server *)cls)->health_connections, c);
    return health_answer(cls, c, method, url, con_cls);
}

void tb_health_completed(void *cls, struct MHD_Connection *c, void **con_cls,
                         enum MHD_RequestTerminationCode code)
{
    if (*con_cls && *con_cls != cls)
        tb_runtime_fetch_free(*con_cls);
    *con_cls = NULL;
    tb_health_connection_idle(&((struct tb_server *)cls)->health_connections, c);
}
