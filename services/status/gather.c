/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "common/facts.h"
#include "common/http.h"
#include "common/io.h"
#include "common/json.h"
#include "common/text.h"
#include "status/status.h"

#define ASK_TIMEOUT_MS 3000

void tb_status_read_files(const char *run_dir, struct tb_snapshot *s)
{
    _cleanup_free_ char *contract = tb_path_join(run_dir, "tb-configure/contract");

    tb_facts_read(run_dir, &s->facts);
    s->configured = contract && access(contract, F_OK) == 0;
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
    gather_make_plain_step(&f->hydrate);
    gather_make_plain_step(&f->decrypt);
    gather_make_plain_step(&f->delivery);
}

static void gather_make_plain_answer(struct tb_status_answer *a)
{
    tb_text_plain(a->error);
    tb_text_plain(a->state);
    tb_text_plain(a->reason);
    tb_text_plain(a->since);
    tb_text_plain(a->contract_id);
    tb_text_plain(a->asset_id);
}

void tb_status_make_plain(struct tb_snapshot *s)
{
    gather_make_plain_facts(&s->facts);
    gather_make_plain_answer(&s->proxy);
    tb_text_plain(s->health_listen);
    for (size_t i = 0; i < s->n_units; i++) {
        tb_text_plain(s->units[i].name);
        tb_text_plain(s->units[i].sub);
        tb_text_plain(s->units[i].result);
        tb_text_plain(s->units[i].text);
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

void tb_status_read_units(struct tb_snapshot *s)
{
    static struct tb_unit_list list;
    const struct tb_unit *health;
    int r = tb_unit_list_read(&list);

    memcpy(s->units, list.unit, sizeof(s->units));
    s->n_units = list.n;
    s->units_known = r == 0;
    s->units_note[0] = '\0';
    if (r < 0)
        snprintf(s->units_note, sizeof(s->units_note), "systemd does not answer: %s", strerror(-r));
    health = tb_unit_list_find(&list, "tb-proxy-health.socket");
    snprintf(s->health_listen, sizeof(s->health_listen), "%s", health ? health->listen : "");
}
