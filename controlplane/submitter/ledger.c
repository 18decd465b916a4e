/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/submitter/ledger.h"

#include <stdio.h>

static int ledger_result(const struct cp_submitter_ledger *l, int r, const char *doing, char *err)
{
    err[0] = '\0';
    if (r == -ESTALE)
        snprintf(err, TB_METERING_ERR_MAX, "%s: another submitter has taken over", doing);
    else if (r == -EBUSY)
        snprintf(err, TB_METERING_ERR_MAX, "%s: the database is busy", doing);
    else if (r < 0)
        snprintf(err, TB_METERING_ERR_MAX, "%s: %.200s", doing, cp_store_error(l->s));
    return r;
}

static int ledger_due(void *ctx, uint64_t realtime_us, bool parked, bool *ret,
                      char err[static TB_METERING_ERR_MAX])
{
    struct cp_submitter_ledger *l = ctx;

    return ledger_result(l, cp_store_events_due(l->s, realtime_us, parked, ret), "looking for what is due",
                         err);
}

static int ledger_take(void *ctx, uint64_t realtime_us, bool parked, const struct tb_metering_event *after,
                       unsigned most, struct tb_metering_batch *ret, char err[static TB_METERING_ERR_MAX])
{
    struct cp_submitter_ledger *l = ctx;

    return ledger_result(l, cp_store_take_events(l->s, l->term, realtime_us, parked, after, most, ret),
                         "taking events to be sent", err);
}

static int ledger_settle(void *ctx, const struct tb_metering_batch *b, const struct tb_metering_verdict *v,
                         uint64_t realtime_us, char err[static TB_METERING_ERR_MAX])
{
    struct cp_submitter_ledger *l = ctx;

    return ledger_result(l, cp_store_settle_events(l->s, l->term, b, v, realtime_us), "entering an answer",
                         err);
}

struct tb_metering_ledger cp_submitter_ledger(struct cp_submitter_ledger *l)
{
    return (struct tb_metering_ledger){ledger_due, ledger_take, ledger_settle, l};
}

int cp_submitter_book(struct cp_submitter_ledger *l, uint64_t now_us, uint64_t *ret_booked,
                      char err[static TB_METERING_ERR_MAX])
{
    struct cp_source from = {0};
    uint64_t booked;
    int r;

    *ret_booked = 0;
    while ((r = cp_store_next_source(l->s, &from, &from)) == 0) {
        r = cp_store_book_source(l->s, l->term, &from, now_us, &booked);
        if (r < 0)
            return ledger_result(l, r, "booking usage", err);
        *ret_booked += booked;
    }
    return ledger_result(l, r == -ENOENT ? 0 : r, "looking for usage", err);
}

int cp_submitter_advance(struct cp_submitter_ledger *l, uint64_t now_us, uint64_t grace_us,
                         unsigned *ret_moved, char err[static TB_METERING_ERR_MAX])
{
    return ledger_result(l, cp_store_advance_events(l->s, l->term, now_us, grace_us, ret_moved),
                         "closing hours", err);
}
