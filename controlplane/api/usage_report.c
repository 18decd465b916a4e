/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/usage_report.h"

#include <string.h>

#include "common/units.h"
#include "metering/event.h"

static void usage_read_values(const cJSON *o, struct cp_usage_values *ret)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *m;

    ret->n = 0;
    cJSON_ArrayForEach (m, o) {
        uint64_t total;

        if (ret->n == CP_COUNTERS_MAX)
            return;
        if (!m->string || !tb_id_valid(m->string) || strlen(m->string) > CP_COUNTER_NAME_MAX ||
            tb_json_get_uint(o, m->string, TB_JSON_INT_MAX, &total, err) < 0)
            continue;
        strcpy(ret->v[ret->n].name, m->string);
        ret->v[ret->n++].total = total;
    }
}

static void usage_read_hours(const cJSON *hours, struct cp_usage_report *ret)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *m;

    cJSON_ArrayForEach (m, hours) {
        const char *text;
        uint64_t us;

        if (ret->n_hours == CP_REPORT_HOURS_MAX)
            return;
        if (!cJSON_IsObject(m) || tb_json_get_string(m, "hour", &text, err) < 0 ||
            tb_rfc3339_parse(text, &us) < 0)
            continue;
        ret->hours[ret->n_hours].hour = (int64_t)(us / TB_USEC_PER_HOUR);
        usage_read_values(tb_json_member(m, "used"), &ret->hours[ret->n_hours++].used);
    }
}

/* A machine that says nothing of it, and has metering events, bills all of its usage. */
static void usage_read_self_billed(const cJSON *report, struct cp_usage_report *ret)
{
    const cJSON *said = tb_json_member(report, "self_billed"), *m;

    if (said) {
        usage_read_values(said, &ret->self_billed);
        return;
    }
    cJSON_ArrayForEach (m, tb_json_member(report, "events")) {
        if (cJSON_IsNumber(m) && m->valuedouble > 0)
            ret->self_billing = true;
    }
    if (ret->self_billing)
        ret->self_billed = ret->used;
}

int cp_usage_report_parse(const struct cp_authorize *q, struct cp_usage_report *ret,
                          char err[static TB_JSON_ERR_MAX])
{
    _cleanup_json_ cJSON *o = NULL;
    const char *at, *ledger;
    char ignored[TB_JSON_ERR_MAX];
    int r = tb_json_parse(q->usage_report, strlen(q->usage_report), TB_REPORT_MAX, &o, err);

    *ret = (struct cp_usage_report){0};
    if (r == 0)
        r = tb_json_get_string(o, "at", &at, err);
    if (r < 0)
        return -EBADMSG;
    if (tb_rfc3339_parse(at, &ret->at_us) < 0 || ret->at_us == 0) {
        snprintf(err, TB_JSON_ERR_MAX, "member \"at\" is not a time");
        return -EBADMSG;
    }
    if (tb_json_get_string(o, "ledger", &ledger, ignored) == 0 && tb_id_valid(ledger) &&
        strlen(ledger) <= CP_LEDGER_ID_MAX)
        strcpy(ret->ledger, ledger);
    strcpy(ret->contract_id, q->contract_id);
    strcpy(ret->asset_id, q->asset_id);
    strcpy(ret->hw_id, q->hw_id);
    strcpy(ret->text, q->usage_report);
    usage_read_values(tb_json_member(o, "used"), &ret->used);
    usage_read_hours(tb_json_member(o, "hours"), ret);
    usage_read_self_billed(o, ret);
    return 0;
}

bool cp_usage_report_signed(const struct cp_authorize *q, const struct tb_key *report_key)
{
    char mac[TB_REPORT_MAC_HEX + 1];

    return tb_report_sign(report_key, q->usage_report, strlen(q->usage_report), mac) == 0 &&
           tb_mem_equal(mac, q->usage_hmac, TB_REPORT_MAC_HEX);
}

int cp_usage_report_is_own(struct cp_store *s, const struct cp_contract *c, const struct cp_identity *who,
                           bool *ret)
{
    struct cp_machine m;
    int r;

    *ret = c->mode == CP_MODE_OPEN || (c->mode == CP_MODE_CERTIFICATE && *who->name);
    if (*ret || !*who->name)
        return 0;
    r = cp_store_get_machine(s, c->contract_id, who->name, &m);
    if (r == -ENOENT)
        return cp_store_has_usage(s, c->contract_id, who->name, ret);
    *ret = r == 0 && strcmp(m.identity, who->key_sha256) == 0;
    return r;
}
