/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdarg.h>
#include <string.h>

#include "billing/billing.h"
#include "billing/hours.h"
#include "common/chain_head.h"
#include "common/events.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/lease_state.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/secret.h"
#include "common/domain_file.h"
#include "common/units.h"
#include "common/usage_report.h"

/* One event, with its fields for the journal. */
static _printf_(4, 5) void report_event(enum tb_log_level level, const char *id,
                                        const struct tb_metering_event *e, const char *fmt, ...)
{
    char hour[TB_RFC3339_MAX], at[64], dimension[TB_METERING_NAME_MAX + 16], quantity[48],
        reason[TB_METERING_REASON_MAX + 16], text[256];
    const char *const fields[] = {at, dimension, quantity, reason, NULL};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(at, sizeof(at), "TB_HOUR=%s", tb_metering_hour_text(e->hour, hour));
    snprintf(dimension, sizeof(dimension), "TB_DIMENSION=%s", e->dimension);
    snprintf(quantity, sizeof(quantity), "TB_QUANTITY=%lld", (long long)e->quantity);
    snprintf(reason, sizeof(reason), "TB_REASON=%.*s", TB_METERING_REASON_MAX, text);
    tb_log_full(level, id, fields, "%s %lld of %s: %s", e->dimension, (long long)e->quantity, hour, text);
}

static void report_verdict(const struct tb_metering_event *e, const struct tb_metering_verdict *v)
{
    switch (v->outcome) {
    case TB_METERING_ACCEPTED:
        if (v->accepted == e->quantity)
            report_event(TB_LOG_INFO, NULL, e, "%s",
                         v->duplicate ? "accepted, an earlier request had arrived" : "accepted");
        else
            report_event(TB_LOG_ERR, TB_EVENT_BILLING_MISMATCH, e, "%s", v->reason);
        break;
    case TB_METERING_EXPIRED:
        if (!e->doubt)
            report_event(TB_LOG_WARN, NULL, e, "too old for the marketplace; it goes into the open hour");
        else if (!e->parked)
            report_event(TB_LOG_ERR, TB_EVENT_BILLING_PARKED, e,
                         "too old to be sent again, and an earlier request had no answer");
        break;
    case TB_METERING_REFUSED:
    case TB_METERING_ENDED:
        if (!e->parked)
            report_event(TB_LOG_ERR, TB_EVENT_BILLING_PARKED, e, "%s", v->reason);
        break;
    case TB_METERING_UNKNOWN:
    case TB_METERING_UNSENT:
        break;
    }
}

void tb_billing_report_answer(struct tb_billing *b, const struct tb_metering_answer *a)
{
    const struct tb_metering_batch *batch = &b->schedule.batch;

    if (a->transient || a->again)
        tb_billing_report_transient(b, a->reason);
    else if (!a->split)
        tb_billing_report_transient(b, NULL);
    for (unsigned i = 0; i < batch->n; i++)
        report_verdict(&batch->event[i], &a->verdict[i]);
}

void tb_billing_report_transient(struct tb_billing *b, const char *reason)
{
    if (!reason && b->transient_logged)
        tb_info("the marketplace answers again");
    else if (reason && !b->transient_logged)
        tb_warn("nothing can be reported to the marketplace now: %s; the ledger keeps it, trying again",
                reason);
    else if (reason)
        tb_debug("still nothing: %s", reason);
    b->transient_logged = reason;
}

/* Durable, so that it outlives every restart; a copy of what the ledger says. tb-authorize looks at it. */
static void report_ended(struct tb_billing *b, const char *ended)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *path = tb_path_join(b->state_dir, "ended");
    char reason[TB_METERING_REASON_MAX + 16];
    const char *const fields[] = {reason, NULL};
    int r = 0;

    if (!o || !path || (b->ended_known && strcmp(ended, b->ended_logged) == 0))
        return;
    cJSON_AddStringToObject(o, "reason", ended);
    if (*ended)
        r = tb_state_write(b->state_dir, "ended", o, 1);
    else if (unlink(path) < 0 && errno != ENOENT)
        r = -errno;
    if (r < 0) {
        tb_error("%s: cannot be written: %s; trying again", path, strerror(-r));
        return;
    }
    snprintf(reason, sizeof(reason), "TB_REASON=%s", ended);
    if (*ended)
        tb_log_full(TB_LOG_ERR, TB_EVENT_SUBSCRIPTION_ENDED, fields,
                    "the marketplace says that the subscription has ended: %s", ended);
    else if (b->ended_known)
        tb_info("the marketplace takes usage of this subscription again");
    snprintf(b->ended_logged, sizeof(b->ended_logged), "%s", ended);
    b->ended_known = true;
}

static void report_late(struct tb_billing *b, const struct tb_metering_summary *s)
{
    uint64_t late = tb_metering_late_us(s, tb_billing_now(b));
    bool alarm = late >= TB_METERING_ALARM_US;
    char oldest[TB_RFC3339_MAX], field[64];
    const char *const fields[] = {field, NULL};

    if (alarm && !b->late_logged) {
        snprintf(field, sizeof(field), "TB_HOUR=%s", tb_metering_hour_text(s->oldest, oldest));
        tb_log_full(
            TB_LOG_ERR, TB_EVENT_BILLING_LATE, fields,
            "usage of %s has not been accepted by the marketplace for %llu hours; see tb-billing ledger",
            oldest, (unsigned long long)(late / TB_USEC_PER_HOUR));
    } else if (!alarm && b->late_logged) {
        tb_info("the marketplace has all usage older than %llu hours again",
                (unsigned long long)(TB_METERING_ALARM_US / TB_USEC_PER_HOUR));
    }
    b->late_logged = alarm;
}

/* Where tb-proxy's audit chain stands: what has left the machine cannot be rewritten on it. */
static void report_add_audit_head(const struct tb_billing *b, cJSON *report)
{
    _cleanup_free_ char *path = tb_strf("%s/tb-proxy/audit-head", b->cfg->state_dir);
    char hash[2 * TB_CHAIN_HASH_BYTES + 1];
    struct tb_chain_point p;
    cJSON *o;

    if (!path || tb_chain_head_read(path, &p) < 0 || p.seq == 0)
        return;
    o = cJSON_AddObjectToObject(report, "audit");
    tb_json_add_uint(o, "seq", p.seq);
    tb_hex_encode(p.hash, sizeof(p.hash), hash);
    cJSON_AddStringToObject(o, "head", hash);
}

/* While there is no lease, what was so stays so. */
int tb_billing_heed(struct tb_billing *b, char err[static TB_LEDGER_ERR_MAX])
{
    struct tb_lease_record l;
    bool known = tb_lease_record_read(b->cfg->run_dir, TB_LEASE_FILE, &l) == 0 &&
                 (l.state == TB_LEASE_AUTHORIZED || l.state == TB_LEASE_UNREACHABLE) &&
                 strcmp(l.contract_id, b->cfg->contract_id) == 0;

    err[0] = '\0';
    if (!known || l.billed_by_control_plane == b->l->elsewhere)
        return 0;
    tb_info(l.billed_by_control_plane
                ? "usage is billed by the control plane from now on"
                : "usage is billed by this machine from now on, where TB_BILLING_ENABLED "
                  "says so");
    return tb_ledger_bill_elsewhere(b->l, l.billed_by_control_plane, err);
}

/* What of the totals this machine has billed by itself, when the control plane bills the rest. */
static int report_add_self_billed(struct tb_billing *b, cJSON *report)
{
    cJSON *o = b->l->elsewhere ? cJSON_AddObjectToObject(report, "self_billed") : NULL;
    uint64_t n;

    for (int c = 0; o && c < _TB_USAGE_MAX; c++) {
        int r = tb_ledger_self_billed(b->l, (enum tb_usage_counter)c, &n);

        if (r < 0)
            return r;
        if (n)
            tb_json_add_uint(o, tb_usage_name((enum tb_usage_counter)c), n);
    }
    return 0;
}

/* What others may know: tb-proxy shows it, and tb-authorize sends it to the control plane. */
static int report_write(struct tb_billing *b, const struct tb_metering_summary *s)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *used = cJSON_AddObjectToObject(o, "used"), *events = cJSON_AddObjectToObject(o, "events");
    char text[TB_RFC3339_MAX], ledger[BILLING_LEDGER_ID_MAX];
    uint64_t total, now = tb_billing_now(b);
    int r = billing_ledger_id(b->l, ledger);

    if (r < 0)
        return r;

    cJSON_AddStringToObject(o, "at", tb_rfc3339_format(now, 0, text));
    tb_json_add_uint(o, "at_boottime_us", tb_now_boottime_us());
    cJSON_AddStringToObject(o, "contract_id", b->cfg->contract_id);
    cJSON_AddStringToObject(o, "asset_id", b->cfg->asset_id);
    cJSON_AddStringToObject(o, "ledger", ledger);
    for (int c = 0; c < _TB_USAGE_MAX; c++) {
        r = tb_ledger_total(b->l, (enum tb_usage_counter)c, &total);
        if (r < 0)
            return r;
        tb_json_add_uint(used, tb_usage_name((enum tb_usage_counter)c), total);
    }
    tb_json_add_uint(events, "open", s->open);
    tb_json_add_uint(events, "frozen", s->frozen);
    tb_json_add_uint(events, "sent", s->sent);
    tb_json_add_uint(events, "accepted", s->accepted);
    tb_json_add_uint(events, "parked", s->parked);
    if (s->oldest >= 0)
        cJSON_AddStringToObject(o, "oldest_unaccepted", tb_metering_hour_text(s->oldest, text));
    tb_json_add_uint(o, "late_seconds", tb_metering_late_us(s, now) / TB_USEC_PER_SEC);
    report_add_audit_head(b, o);
    r = report_add_self_billed(b, o);
    if (r < 0)
        return r;
    r = billing_hours_add(b->l, now, TB_REPORT_MAX, o);
    if (r < 0)
        return r;
    (void)tb_state_write(b->run_dir, "report.json", o, 0);
    return 0;
}

static void report_status(struct tb_billing *b, const struct tb_metering_summary *s, const char *ended)
{
    char when[TB_RFC3339_MAX], accepted[TB_RFC3339_MAX + 32] = "";
    uint64_t requests = 0;

    (void)tb_ledger_total(b->l, TB_USAGE_REQUESTS, &requests);
    if (s->last_accepted >= 0)
        snprintf(accepted, sizeof(accepted), ", accepted up to %s",
                 tb_metering_hour_text(s->last_accepted, when));
    if (b->waiting)
        tb_notify_status("Waiting for the first request");
    else if (*ended)
        tb_notify_status("The subscription has ended: %s", ended);
    else if (s->parked > 0 || s->frozen + s->sent > 0)
        tb_notify_status("%llu requests booked%s; %u events to send, %u parked, the oldest %llu h late",
                         (unsigned long long)requests, accepted, s->frozen + s->sent, s->parked,
                         (unsigned long long)(tb_metering_late_us(s, tb_billing_now(b)) / TB_USEC_PER_HOUR));
    else
        tb_notify_status("%llu requests booked up to %s%s", (unsigned long long)requests,
                         tb_rfc3339_format(tb_billing_now(b), 0, when), accepted);
}

int tb_billing_report(struct tb_billing *b)
{
    char ended[TB_METERING_REASON_MAX] = "", err[TB_LEDGER_ERR_MAX] = "";
    struct tb_metering_summary s;
    int r = tb_metering_summarise(b->l, &s);

    if (r == 0)
        r = tb_metering_ended(b->l, ended);
    if (r == 0)
        r = report_write(b, &s);
    if (r < 0) {
        r = tb_db_error(b->l->db, r, "reading", err);
        tb_error("%s: %s", b->ledger_path, err);
        return r;
    }
    report_ended(b, ended);
    if (b->cfg->billing_enabled)
        report_late(b, &s);
    report_status(b, &s, ended);
    return 0;
}
