/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/schedule.h"

#include <string.h>

static void schedule_calm(struct billing_schedule *m)
{
    m->backoff = (struct tb_backoff){.base_ms = BILLING_SCHEDULE_RETRY_BASE_MS,
                                     .cap_ms = BILLING_SCHEDULE_RETRY_CAP_MS};
    m->not_before_us = 0;
}

void billing_schedule_init(struct billing_schedule *m, const char *plan_id)
{
    *m = (struct billing_schedule){.plan_id = plan_id};
    schedule_calm(m);
}

void billing_schedule_postpone(struct billing_schedule *m, uint64_t boottime_us, int64_t retry_after_ms)
{
    m->not_before_us = boottime_us + tb_backoff_next_ms(&m->backoff, retry_after_ms) * 1000;
    m->passing = false;
}

int billing_schedule_due(struct billing_schedule *m, struct tb_ledger *l, uint64_t realtime_us,
                         uint64_t boottime_us, bool *ret)
{
    *ret = false;
    if (boottime_us < m->not_before_us)
        return 0;
    return tb_metering_due(l, realtime_us, boottime_us >= m->parked_next_us, ret);
}

static void schedule_begin(struct billing_schedule *m, uint64_t boottime_us)
{
    m->passing = true;
    m->again = false;
    m->most = TB_USAGE_DIMENSIONS;
    m->after_hour = -1;
    m->after_dimension[0] = '\0';
    m->parked = boottime_us >= m->parked_next_us;
    if (m->parked)
        m->parked_next_us = boottime_us + BILLING_SCHEDULE_PARKED_US;
}

static void schedule_end(struct billing_schedule *m, uint64_t boottime_us)
{
    if (m->again)
        billing_schedule_postpone(m, boottime_us, -1);
    m->passing = false;
}

int billing_schedule_next(struct billing_schedule *m, struct tb_ledger *l, const char *resource,
                          uint64_t realtime_us, uint64_t boottime_us, char **ret_body,
                          char err[static TB_LEDGER_ERR_MAX])
{
    int r;

    *ret_body = NULL;
    if (boottime_us < m->not_before_us)
        return 0;
    if (!m->passing)
        schedule_begin(m, boottime_us);
    r = tb_metering_take(l, realtime_us, m->parked, m->after_hour, m->after_dimension, m->most, &m->batch,
                         err);
    if (r < 0)
        return r;
    if (m->batch.n == 0) {
        schedule_end(m, boottime_us);
        return 0;
    }
    *ret_body = billing_answer_request(&m->batch, resource, m->plan_id);
    return *ret_body ? 0 : tb_db_error(NULL, -ENOMEM, "making a request", err);
}

static void schedule_judge(struct billing_schedule *m, const struct billing_schedule_result *x,
                           struct billing_answer *ret)
{
    if (!x->answered) {
        billing_answer_none(x->reached, x->reason, &m->batch, ret);
        return;
    }
    /* The API says 403 for a token that it does not like today and for one that it will never like: ask
     * twice. */
    m->forbidden = x->status == 403 ? m->forbidden + 1 : 0;
    if (m->forbidden == 1) {
        billing_answer_none(false, "status 403", &m->batch, ret);
        ret->token = true;
        return;
    }
    billing_answer_judge(x->status, x->body, x->len, &m->batch, ret);
}

int billing_schedule_answer(struct billing_schedule *m, struct tb_ledger *l,
                            const struct billing_schedule_result *x, uint64_t realtime_us,
                            uint64_t boottime_us, struct billing_answer *ret,
                            char err[static TB_LEDGER_ERR_MAX])
{
    const struct tb_metering_batch *b = &m->batch;
    int r;

    schedule_judge(m, x, ret);
    r = tb_metering_settle(l, b, ret->verdict, realtime_us, err);
    if (r < 0)
        return r;
    if (ret->transient) {
        billing_schedule_postpone(m, boottime_us, x->answered ? x->retry_after_ms : -1);
        return 0;
    }
    if (ret->split) { /* the same hour once more */
        m->most = 1;
        return 0;
    }
    if (!ret->again)
        schedule_calm(m);
    m->again |= ret->again;
    m->after_hour = b->hour;
    snprintf(m->after_dimension, sizeof(m->after_dimension), "%s", b->event[b->n - 1].dimension->name);
    return 0;
}
