/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/audit/refusals.h"

#include <stdlib.h>
#include <string.h>

#include "common/macros.h"

/* A bucket that holds TB_REFUSALS_BURST: what was taken is a point in time that moves ahead of the clock. */
static bool refusals_admit(struct tb_refusals *f, uint64_t now_us)
{
    uint64_t from = MAX(f->ahead_us, now_us);

    if (from + TB_REFUSALS_EACH_US - now_us > TB_REFUSALS_BURST * TB_REFUSALS_EACH_US)
        return false;
    f->ahead_us = from + TB_REFUSALS_EACH_US;
    return true;
}

static struct tb_refusal_group *refusals_group(struct tb_refusals *f, const struct tb_audit_record *r)
{
    size_t i = 0;

    while (i < TB_REFUSALS_GROUPS - 1 && f->group[i].status != 0 &&
           (f->group[i].status != r->status || strcmp(f->group[i].error, r->error) != 0))
        i++;
    return &f->group[i];
}

static void refusals_merge(struct tb_audit_record *sum, const struct tb_audit_record *r)
{
    sum->count++;
    sum->last_realtime_us = r->start_realtime_us;
    sum->latency_ms = MAX(sum->latency_ms, r->latency_ms);
    sum->bytes_in += r->bytes_in;
    sum->bytes_out += r->bytes_out;
    if (strcmp(sum->client, r->client) != 0)
        memcpy(sum->client, "-", 2);
    if (sum->status != r->status || strcmp(sum->error, r->error) != 0)
        memcpy(sum->error, "various", 8);
}

bool tb_refusals_add(struct tb_refusals *f, struct tb_audit_record *r, uint64_t now_us)
{
    struct tb_refusal_group *g;

    if (refusals_admit(f, now_us))
        return true;
    g = refusals_group(f, r);
    f->waiting++;
    if (g->record) {
        refusals_merge(g->record, r);
        g->last_us = now_us;
        free(r);
        return false;
    }
    if (g->status == 0 || now_us - g->last_us > TB_REFUSALS_INTERVAL_US)
        g->interval_us = TB_REFUSALS_FIRST_US;
    g->status = r->status;
    memcpy(g->error, r->error, sizeof(g->error));
    g->since_us = g->last_us = now_us;
    g->record = r;
    r->count = 1;
    r->last_realtime_us = r->start_realtime_us;
    return false;
}

struct tb_audit_record *tb_refusals_take(struct tb_refusals *f, uint64_t now_us, bool any)
{
    for (size_t i = 0; i < TB_REFUSALS_GROUPS; i++) {
        struct tb_refusal_group *g = &f->group[i];
        struct tb_audit_record *r = g->record;

        if (!r || (!any && now_us < g->since_us + g->interval_us))
            continue;
        g->record = NULL;
        g->interval_us = MIN(2 * g->interval_us, TB_REFUSALS_INTERVAL_US);
        f->waiting -= r->count;
        return r;
    }
    return NULL;
}

uint64_t tb_refusals_due_us(const struct tb_refusals *f)
{
    uint64_t due = UINT64_MAX;

    for (size_t i = 0; i < TB_REFUSALS_GROUPS; i++)
        if (f->group[i].record)
            due = MIN(due, f->group[i].since_us + f->group[i].interval_us);
    return due;
}

void tb_refusals_clear(struct tb_refusals *f)
{
    for (size_t i = 0; i < TB_REFUSALS_GROUPS; i++)
        free(f->group[i].record);
    *f = (struct tb_refusals){0};
}
