/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rate.h"

#include "common/macros.h"
#include "common/units.h"

#define RATE_SHORTEST_US 100000ULL /* what came in less says nothing */

void tb_rate_note(struct tb_rate *r, uint64_t count, uint64_t now_us)
{
    r->most = MAX(r->most, count);
    if (r->n > 0 && now_us < r->at[(r->n - 1) % TB_RATE_SAMPLES].us + TB_RATE_EVERY_US)
        return;
    r->at[r->n % TB_RATE_SAMPLES].us = now_us;
    r->at[r->n++ % TB_RATE_SAMPLES].count = r->most;
}

uint64_t tb_rate_get(const struct tb_rate *r, uint64_t now_us)
{
    unsigned oldest = r->n > TB_RATE_SAMPLES ? r->n % TB_RATE_SAMPLES : 0;
    uint64_t since = r->n > 0 ? now_us - r->at[oldest].us : 0;

    if (r->n == 0 || now_us < r->at[oldest].us || since < RATE_SHORTEST_US)
        return 0;
    return (uint64_t)((double)(r->most - r->at[oldest].count) * (double)TB_USEC_PER_SEC / (double)since);
}
