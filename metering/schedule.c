/* SPDX-License-Identifier: Apache-2.0 */
#include "metering/schedule.h"

#include <errno.h>
#include <stdio.h>

static void schedule_calm(struct tb_metering_schedule *m)
{
    m->backoff =
        (struct tb_backoff){.base_ms = TB_METERING_RETRY_BASE_MS, .cap_ms = TB_METERING_RETRY_CAP_MS};
    m->not_before_us = 0;
}

void tb_metering_schedule_init(struct tb_metering_schedule *m, struct tb_metering_ledger ledger)
{
    *m = (struct tb_metering_schedule){.ledger = ledger};
    schedule_calm(m);
}

void tb_metering_schedule_postpone(struct tb_metering_schedule *m, uint64_t boottime_us,
                                   int64_t retry_after_ms)
{
    m->not_before_us = boottime_us + tb_backoff_next_ms(&m->backoff, retry_after_ms) * 1000;
    m->passing = false;
}

int tb_metering_schedule_due(struct tb_metering_schedule *m, uint64_t realtime_us, uint64_t boottime_us,
                             bool *ret, char err[static TB_METERING_ERR_MAX])
{
    *ret = false;
    if (boottime_us < m->not_before_us)
        return 0;
    return m->ledger.due(m->ledger.ctx, realtime_us, boottime_us >= m->parked_next_us, ret, err);
}

static void schedule_begin(struct tb_metering_schedule *m, uint64_t boottime_us)
{
    m->passing = true;
    m->again = m->begun = false;
    m->most = TB_METERING_BATCH_MAX;
    m->parked = boottime_us >= m->parked_next_us;
    if (m->parked)
        m->parked_next_us = boottime_us + TB_METERING_PARKED_US;
}

static void schedule_end(struct tb_metering_schedule *m, uint64_t boottime_us)
{
    if (m->again)
        tb_metering_schedule_postpone(m, boottime_us, -1);
    m->passing = false;
}

int tb_metering_schedule_next(struct tb_metering_schedule *m, uint64_t realtime_us, uint64_t boottime_us,
                              char **ret_body, char err[static TB_METERING_ERR_MAX])
{
    int r;

    *ret_body = NULL;
    if (boottime_us < m->not_before_us)
        return 0;
    if (!m->passing)
        schedule_begin(m, boottime_us);
    r = m->ledger.take(m->ledger.ctx, realtime_us, m->parked, m->begun ? &m->after : NULL, m->most, &m->batch,
                       err);
    if (r < 0)
        return r;
    if (m->batch.n == 0) {
        schedule_end(m, boottime_us);
        return 0;
    }
    *ret_body = tb_metering_answer_request(&m->batch);
    if (*ret_body)
        return 0;
    snprintf(err, TB_METERING_ERR_MAX, "making a request: out of memory");
    return -ENOMEM;
}

static void schedule_judge(struct tb_metering_schedule *m, const struct tb_metering_result *x,
                           struct tb_metering_answer *ret)
{
    if (!x->answered) {
        tb_metering_answer_none(x->reached, x->reason, &m->batch, ret);
        return;
    }
    /* The API says 403 for a token that it does not like today and for one that it will never like: ask
     * twice. */
    m->forbidden = x->status == 403 ? m->forbidden + 1 : 0;
    if (m->forbidden == 1) {
        tb_metering_answer_none(false, "status 403", &m->batch, ret);
        ret->token = true;
        return;
    }
    tb_metering_answer_judge(x->status, x->body, x->len, &m->batch, ret);
}

int tb_metering_schedule_answer(struct tb_metering_schedule *m, const struct tb_metering_result *x,
                                uint64_t realtime_us, uint64_t boottime_us, struct tb_metering_answer *ret,
                                char err[static TB_METERING_ERR_MAX])
{
    const struct tb_metering_batch *b = &m->batch;
    int r;

    schedule_judge(m, x, ret);
    r = m->ledger.settle(m->ledger.ctx, b, ret->verdict, realtime_us, err);
    if (r < 0)
        return r;
    if (ret->transient) {
        tb_metering_schedule_postpone(m, boottime_us, x->answered ? x->retry_after_ms : -1);
        return 0;
    }
    if (ret->split) { /* the same once more */
        m->most = 1;
        return 0;
    }
    if (!ret->again)
        schedule_calm(m);
    m->again |= ret->again;
    m->begun = true;
    m->after = b->event[b->n - 1];
    return 0;
}
