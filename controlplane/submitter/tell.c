/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/submitter/tell.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/events.h"
#include "common/log.h"
#include "controlplane/api/metrics.h"

/* One event, with its fields for the journal. */
static _printf_(4, 5) void tell_event(enum tb_log_level level, const char *id,
                                      const struct tb_metering_event *e, const char *fmt, ...)
{
    char hour[TB_RFC3339_MAX], resource[TB_METERING_RESOURCE_MAX + 16], at[64],
        dimension[TB_METERING_NAME_MAX + 16], quantity[48], text[TB_METERING_REASON_MAX];
    const char *const fields[] = {resource, at, dimension, quantity, NULL};
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    snprintf(resource, sizeof(resource), "TB_RESOURCE=%s", e->resource);
    snprintf(at, sizeof(at), "TB_HOUR=%s", tb_metering_hour_text(e->hour, hour));
    snprintf(dimension, sizeof(dimension), "TB_DIMENSION=%s", e->dimension);
    snprintf(quantity, sizeof(quantity), "TB_QUANTITY=%lld", (long long)e->quantity);
    tb_log_full(level, id, fields, "submitter: %s %lld of %s for %.120s: %s", e->dimension,
                (long long)e->quantity, hour, e->resource, text);
}

static void tell_verdict(const struct tb_metering_event *e, const struct tb_metering_verdict *v)
{
    switch (v->outcome) {
    case TB_METERING_ACCEPTED:
        cp_metric_add(v->duplicate ? CP_METRIC_EVENT_DUPLICATE : CP_METRIC_EVENT_ACCEPTED);
        if (v->accepted == e->quantity)
            tell_event(TB_LOG_INFO, NULL, e, "%s",
                       v->duplicate ? "accepted, an earlier request had arrived" : "accepted");
        else
            tell_event(TB_LOG_ERR, TB_EVENT_BILLING_MISMATCH, e, "%s", v->reason);
        break;
    case TB_METERING_EXPIRED:
        cp_metric_add(CP_METRIC_EVENT_EXPIRED);
        if (!e->doubt)
            tell_event(TB_LOG_WARN, NULL, e, "too old for the marketplace; it goes into the open hour");
        else if (!e->parked)
            tell_event(TB_LOG_ERR, TB_EVENT_BILLING_PARKED, e,
                       "too old to be sent again, and an earlier request had no answer; look what the "
                       "marketplace has, and say so with `submitter resolve`");
        break;
    case TB_METERING_REFUSED:
    case TB_METERING_ENDED:
        cp_metric_add(CP_METRIC_EVENT_REFUSED);
        if (!e->parked)
            tell_event(TB_LOG_ERR, TB_EVENT_BILLING_PARKED, e, "%s", v->reason);
        break;
    case TB_METERING_UNKNOWN:
    case TB_METERING_UNSENT:
        break;
    }
}

void cp_submitter_tell_answer(struct cp_submitter_said *said, const struct tb_metering_batch *b,
                              const struct tb_metering_answer *a)
{
    if (a->transient || a->again)
        cp_submitter_tell_transient(said, a->reason);
    else if (!a->split)
        cp_submitter_tell_transient(said, NULL);
    for (unsigned i = 0; i < b->n; i++)
        tell_verdict(&b->event[i], &a->verdict[i]);
}

void cp_submitter_tell_transient(struct cp_submitter_said *said, const char *reason)
{
    if (reason)
        cp_metric_add(CP_METRIC_FAILED_MARKETPLACE);
    if (!reason && said->transient)
        tb_info("submitter: the marketplace answers again");
    else if (reason && !said->transient)
        tb_warn("submitter: nothing can be reported to the marketplace now: %s; the ledger keeps it, trying "
                "again",
                reason);
    said->transient = reason;
}

/* -- the ledger -------------------------------------------------------------------------------- */
static void tell_late(struct cp_submitter_said *said, int64_t oldest, uint64_t late_us)
{
    bool alarm = late_us >= TB_METERING_ALARM_US;
    char text[TB_RFC3339_MAX], field[64];
    const char *const fields[] = {field, NULL};

    if (alarm && !said->late) {
        snprintf(field, sizeof(field), "TB_HOUR=%s", tb_metering_hour_text(oldest, text));
        tb_log_full(TB_LOG_ERR, TB_EVENT_BILLING_LATE, fields,
                    "submitter: usage of %s has not been accepted by the marketplace for %llu hours; see "
                    "`submitter events`",
                    text, (unsigned long long)(late_us / TB_USEC_PER_HOUR));
    } else if (!alarm && said->late) {
        tb_info("submitter: the marketplace has all older usage again");
    }
    said->late = alarm;
}

static void tell_held(struct cp_submitter_said *said, const struct cp_billing_summary *s)
{
    if (s->without_resource && !said->without_resource)
        tb_warn(
            "submitter: usage of %llu machines is held: the resource of their contracts is not known; see "
            "`contract bill`",
            (unsigned long long)s->without_resource);
    if (s->self_billing && !said->self_billing)
        tb_warn("submitter: %llu machines bill by themselves, though their contracts are billed here: their "
                "TrustBridge is too old to be told; set TB_BILLING_ENABLED=false there",
                (unsigned long long)s->self_billing);
    said->without_resource = s->without_resource;
    said->self_billing = s->self_billing;
    if (s->ended > said->ended)
        tb_log_full(
            TB_LOG_ERR, TB_EVENT_SUBSCRIPTION_ENDED, (const char *const[]){NULL},
            "submitter: the marketplace says that the subscription of %llu resources has ended; their "
            "contracts are refused until it takes usage again",
            (unsigned long long)s->ended);
    said->ended = s->ended;
}

void cp_submitter_tell_summary(struct cp_submitter_said *said, const struct cp_billing_summary *s,
                               uint64_t now_us)
{
    uint64_t late_us = tb_metering_age_us(s->oldest, now_us);

    cp_gauge_set(CP_GAUGE_EVENTS_OPEN, s->open);
    cp_gauge_set(CP_GAUGE_EVENTS_FROZEN, s->frozen);
    cp_gauge_set(CP_GAUGE_EVENTS_SENT, s->sent);
    cp_gauge_set(CP_GAUGE_EVENTS_PARKED, s->parked);
    cp_gauge_set(CP_GAUGE_EVENTS_DOUBT, s->doubt);
    cp_gauge_set(CP_GAUGE_UNACCEPTED_AGE, late_us / TB_USEC_PER_SEC);
    cp_gauge_set(CP_GAUGE_HELD_RESOURCE, s->without_resource);
    cp_gauge_set(CP_GAUGE_HELD_SELF_BILLING, s->self_billing);
    tell_late(said, s->oldest, late_us);
    tell_held(said, s);
}
