/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "common/domain_file.h"
#include "common/facts.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"
#include "common/units.h"
#include "status/status.h"

#define ASK_TIMEOUT_MS 3000
#define DISK_LOW_BYTES (1ULL << 30) /* the default of TB_DISK_LOW_BYTES, which tb-proxy knows */

static void gather_read_ledger(const char *run_dir, struct tb_snapshot *s)
{
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    uint64_t at;

    s->ledger = (struct tb_status_ledger){0};
    if (tb_state_read_at(run_dir, "tb-billing/report.json", &doc) < 0 ||
        tb_json_get_uint(doc, "at_boottime_us", TB_JSON_INT_MAX, &at, err) < 0 || at > s->boottime_us)
        return;
    s->ledger.known = true;
    s->ledger.age_us = s->boottime_us - at;
    (void)tb_json_get_uint(doc, "late_seconds", TB_JSON_INT_MAX, &s->ledger.late_s, err);
}

/* A line of it is "FILE:LINE: error: NAME: WHAT". */
static void gather_read_report(const char *run_dir, struct tb_snapshot *s)
{
    _cleanup_free_ char *path = tb_path_join(run_dir, "tb-configure/report"), *text = NULL;
    const char *error;

    s->settings_error[0] = '\0';
    if (!path || tb_read_file(path, TB_STATE_FILE_MAX, &text, NULL) < 0)
        return;
    error = strstr(text, ": error: ");
    if (error)
        snprintf(s->settings_error, sizeof(s->settings_error), "%.*s", (int)strcspn(error + 9, "\n"),
                 error + 9);
}

void tb_status_read_files(const char *run_dir, struct tb_snapshot *s)
{
    _cleanup_free_ char *contract = tb_path_join(run_dir, "tb-configure/contract");

    tb_facts_read(run_dir, &s->facts);
    s->configured = contract && access(contract, F_OK) == 0;
    gather_read_ledger(run_dir, s);
    gather_read_report(run_dir, s);
}

static void gather_make_plain_step(struct tb_step *s)
{
    tb_text_plain(s->phase);
    tb_text_plain(s->reason);
    tb_text_plain(s->mode);
}

static void gather_make_plain_facts(struct tb_facts *f)
{
    tb_text_plain(f->suspended_reason);
    tb_text_plain(f->suspended_since);
    tb_text_plain(f->lease_reason);
    tb_text_plain(f->contract_id);
    tb_text_plain(f->asset_id);
    tb_text_plain(f->attested.level);
    tb_text_plain(f->attested.image);
    tb_text_plain(f->attested.version);
    tb_text_plain(f->volume);
    tb_text_plain(f->volume_text);
    tb_text_plain(f->contact.reason);
    tb_text_plain(f->contact.client.path);
    tb_text_plain(f->contact.client.error);
    tb_text_plain(f->contact.ca.path);
    tb_text_plain(f->contact.ca.error);
    tb_text_plain(f->update.reason);
    tb_text_plain(f->update.when);
    gather_make_plain_step(&f->next);
    gather_make_plain_step(&f->hydrate);
    gather_make_plain_step(&f->decrypt);
    gather_make_plain_step(&f->delivery);
    tb_text_plain(f->no_view);
    tb_text_plain(f->source.mirror);
    for (size_t i = 0; i < f->repairs.n; i++)
        tb_text_plain(f->repairs.r[i].file);
}

static void gather_make_plain_answer(struct tb_status_answer *a)
{
    tb_text_plain(a->error);
    tb_text_plain(a->state);
    tb_text_plain(a->reason);
    tb_text_plain(a->since);
    tb_text_plain(a->contract_id);
    tb_text_plain(a->asset_id);
    tb_text_plain(a->public_addr);
    tb_text_plain(a->state_trouble);
    tb_text_plain(a->keys_trouble);
    tb_text_plain(a->server.path);
    tb_text_plain(a->server.error);
}

void tb_status_make_plain(struct tb_snapshot *s)
{
    gather_make_plain_facts(&s->facts);
    gather_make_plain_answer(&s->proxy);
    tb_text_plain(s->health_listen);
    tb_text_plain(s->public_listen);
    tb_text_plain(s->client.error);
    tb_text_plain(s->settings_error);
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        tb_text_plain(s->places[i].path);
    for (size_t i = 0; i < s->n_units; i++) {
        tb_text_plain(s->units[i].name);
        tb_text_plain(s->units[i].sub);
        tb_text_plain(s->units[i].result);
        tb_text_plain(s->units[i].text);
        tb_text_plain(s->units[i].said);
    }
    for (size_t i = 0; i < s->n_errors; i++) {
        tb_text_plain(s->errors[i].program);
        tb_text_plain(s->errors[i].message);
    }
}

void tb_status_connect_address(const char *listen, char *out, size_t size)
{
    if (strncmp(listen, "0.0.0.0:", 8) == 0)
        snprintf(out, size, "127.0.0.1:%s", listen + 8);
    else if (listen[0] == ':')
        snprintf(out, size, "127.0.0.1%s", listen);
    else if (strncmp(listen, "[::]:", 5) == 0)
        snprintf(out, size, "[::1]:%s", listen + 5);
    else
        snprintf(out, size, "%s", listen);
}

static void gather_answer_copy(const cJSON *doc, const char *name, char *out, size_t size)
{
    char err[TB_JSON_ERR_MAX];
    const char *v = "";

    (void)tb_json_get_string(doc, name, &v, err);
    snprintf(out, size, "%s", v);
}

static void gather_answer_places(const cJSON *doc, struct tb_place places[static _TB_PLACE_MAX])
{
    const cJSON *a = tb_json_member(doc, "places"), *o;
    char err[TB_JSON_ERR_MAX], name[32];

    cJSON_ArrayForEach (o, a) {
        gather_answer_copy(o, "name", name, sizeof(name));
        for (int i = 0; i < _TB_PLACE_MAX; i++) {
            struct tb_place *p = &places[i];

            if (strcmp(name, tb_place_name(i)) != 0)
                continue;
            gather_answer_copy(o, "path", p->path, sizeof(p->path));
            p->known = tb_json_get_uint(o, "size_bytes", TB_JSON_INT_MAX, &p->size_bytes, err) == 0 &&
                       tb_json_get_uint(o, "free_bytes", TB_JSON_INT_MAX, &p->free_bytes, err) == 0 &&
                       tb_json_get_uint(o, "low_bytes", TB_JSON_INT_MAX, &p->low_bytes, err) == 0;
            (void)tb_json_get_uint(o, "device", TB_JSON_INT_MAX, &p->device, err);
            (void)tb_json_get_uint(o, "files", TB_JSON_INT_MAX, &p->files, err);
            (void)tb_json_get_uint(o, "free_files", TB_JSON_INT_MAX, &p->free_files, err);
        }
    }
}

static void gather_answer_certificate(const cJSON *doc, struct tb_certificate *ret)
{
    const cJSON *o = tb_json_member(doc, "server_cert");
    char text[TB_RFC3339_MAX];

    if (!cJSON_IsObject(o))
        return;
    gather_answer_copy(o, "path", ret->path, sizeof(ret->path));
    gather_answer_copy(o, "error", ret->error, sizeof(ret->error));
    gather_answer_copy(o, "not_before", text, sizeof(text));
    (void)tb_rfc3339_parse(text, &ret->from_us);
    gather_answer_copy(o, "expires_at", text, sizeof(text));
    (void)tb_rfc3339_parse(text, &ret->until_us);
}

int tb_status_parse_answer(const char *text, size_t len, struct tb_status_answer *ret)
{
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];

    if (tb_json_parse(text, len, TB_HTTP_RESPONSE_MAX, &doc, err) < 0 || !cJSON_IsObject(doc))
        return -EBADMSG;
    gather_answer_copy(doc, "state", ret->state, sizeof(ret->state));
    gather_answer_copy(doc, "reason", ret->reason, sizeof(ret->reason));
    gather_answer_copy(doc, "since", ret->since, sizeof(ret->since));
    gather_answer_copy(doc, "contract_id", ret->contract_id, sizeof(ret->contract_id));
    gather_answer_copy(doc, "asset_id", ret->asset_id, sizeof(ret->asset_id));
    ret->has_requests =
        tb_json_get_uint(doc, "requests_processed", TB_JSON_INT_MAX, &ret->requests, err) == 0;
    (void)tb_json_get_uint(doc, "uptime_seconds", TB_JSON_INT_MAX, &ret->uptime_s, err);
    (void)tb_json_get_uint(doc, "runtime_silent_seconds", TB_JSON_INT_MAX, &ret->silent_s, err);
    gather_answer_copy(doc, "api_keys_trouble", ret->keys_trouble, sizeof(ret->keys_trouble));
    gather_answer_copy(doc, "state_files_trouble", ret->state_trouble, sizeof(ret->state_trouble));
    gather_answer_copy(doc, "public_addr", ret->public_addr, sizeof(ret->public_addr));
    gather_answer_places(doc, ret->places);
    gather_answer_certificate(doc, &ret->server);
    return ret->state[0] ? 0 : -EBADMSG;
}

void tb_status_ask_proxy(const char *health_addr, struct tb_status_answer *ret)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    struct tb_http_tls tls = {.allow_http = true};
    struct tb_http_request rq = {.url = ret->url,
                                 .direct = true,
                                 .tls = &tls,
                                 .timeout_ms = ASK_TIMEOUT_MS,
                                 .connect_timeout_ms = ASK_TIMEOUT_MS};
    char host[96], err[TB_HTTP_ERR_MAX];

    *ret = (struct tb_status_answer){0};
    tb_status_connect_address(health_addr, host, sizeof(host));
    snprintf(ret->url, sizeof(ret->url), "http://%s/status", host);
    if (tb_http_do(&rq, &rs, err) < 0) {
        snprintf(ret->error, sizeof(ret->error), "%s", err);
        return;
    }
    if (rs.status != 200 || tb_status_parse_answer(rs.body, rs.len, ret) < 0) {
        snprintf(ret->error, sizeof(ret->error), "what answers there (status %ld) is not tb-proxy",
                 rs.status);
        return;
    }
    ret->came = true;
}

static int gather_ask_health(const char *scheme, const char *host, struct tb_http_response *ret,
                             char err[static TB_HTTP_ERR_MAX])
{
    struct tb_http_tls tls = {.allow_http = true, .unverified = true};
    char url[128];
    struct tb_http_request rq = {.url = url,
                                 .direct = true,
                                 .tls = &tls,
                                 .timeout_ms = ASK_TIMEOUT_MS,
                                 .connect_timeout_ms = ASK_TIMEOUT_MS};

    snprintf(url, sizeof(url), "%s://%s/health", scheme, host);
    return tb_http_do(&rq, ret, err);
}

void tb_status_ask_public(const char *addr, struct tb_status_probe *ret)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    char host[96], err[TB_HTTP_ERR_MAX];
    int r;

    *ret = (struct tb_status_probe){0};
    if (!addr[0])
        return;
    snprintf(ret->addr, sizeof(ret->addr), "%s", addr);
    tb_status_connect_address(addr, host, sizeof(host));
    r = gather_ask_health("http", host, &rs, err);
    if (r == 0 && rs.status == 400 && strstr(rs.body, "\"plain_http\"")) { /* it wants TLS */
        tb_http_response_clear(&rs);
        r = gather_ask_health("https", host, &rs, err);
    }
    ret->serves = r == 0 && rs.status == 200 && strcmp(rs.body, "OK") == 0;
    ret->answered = ret->serves || (r == 0 && rs.status == 503 && strncmp(rs.body, "Not ready", 9) == 0);
    if (r < 0)
        snprintf(ret->error, sizeof(ret->error), "%s", err);
    else if (!ret->answered)
        snprintf(ret->error, sizeof(ret->error), "what answers there (status %ld) is not tb-proxy",
                 rs.status);
}

void tb_status_measure_places(const char *run_dir, struct tb_snapshot *s)
{
    struct tb_config c = {0}; /* as far as it is known without the settings */
    const char *state = getenv("TB_STATE_DIR");

    if (s->proxy.came) {
        memcpy(s->places, s->proxy.places, sizeof(s->places));
        for (int i = 0; i < _TB_PLACE_MAX; i++) /* which tb-proxy cannot see from its sandbox */
            s->places[i].read_only = s->places[i].known && tb_place_read_only(s->places[i].path);
        return;
    }
    if (run_dir && !(state && *state))
        return; /* of a chain elsewhere nothing else is known */
    c.run_dir = (char *)(run_dir ? run_dir : "/run");
    c.state_dir = (char *)(state && *state ? state : "/var/lib");
    c.target_dir = (char *)"/mnt/resource/trustbridge";
    tb_places_init(s->places, &c);
    if (run_dir)
        s->places[TB_PLACE_CIPHERTEXT].path[0] = s->places[TB_PLACE_JOURNAL].path[0] = '\0';
    tb_places_measure(s->places, DISK_LOW_BYTES);
}

void tb_status_read_units(struct tb_snapshot *s)
{
    static struct tb_unit_list list;
    const struct tb_unit *health, *public;
    int r = tb_unit_list_read(&list);

    memcpy(s->units, list.unit, sizeof(s->units));
    s->n_units = list.n;
    s->units_known = r == 0;
    s->units_note[0] = '\0';
    if (r < 0)
        snprintf(s->units_note, sizeof(s->units_note), "systemd does not answer: %s", strerror(-r));
    public = tb_unit_list_find(&list, "tb-proxy.socket");
    snprintf(s->public_listen, sizeof(s->public_listen), "%s", public ? public->listen : "");
    health = tb_unit_list_find(&list, "tb-proxy-health.socket");
    snprintf(s->health_listen, sizeof(s->health_listen), "%s", health ? health->listen : "");
}
