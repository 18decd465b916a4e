/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/limits.h"

#include <assert.h>

#include "common/macros.h"

/* Each unit takes 1/rate of the window. What was taken is a point in time that moves ahead of the clock;
 * room is left as long as it is less than a window ahead (GCRA). */
static uint64_t limit_cost_us(uint64_t units, uint64_t rate)
{
    uint64_t ms =
        MIN(units, rate * 1000) * (TB_LIMIT_WINDOW_US / 1000); /* past a thousand windows it is all one */

    return ms / rate * 1000 + ms % rate * 1000 / rate;
}

static uint64_t limit_ahead_us(uint64_t until_us, uint64_t now_us)
{
    return until_us > now_us ? until_us - now_us : 0;
}

static uint64_t limit_units_left(uint64_t until_us, uint64_t now_us, uint64_t rate)
{
    uint64_t ahead = limit_ahead_us(until_us, now_us);

    if (ahead >= TB_LIMIT_WINDOW_US)
        return 0;
    return (TB_LIMIT_WINDOW_US - ahead) / 1000 * rate / (TB_LIMIT_WINDOW_US / 1000);
}

static bool limit_fits(uint64_t until_us, uint64_t now_us, uint64_t cost, uint64_t *ret_retry_us)
{
    uint64_t ahead = limit_ahead_us(until_us, now_us);

    *ret_retry_us = cost > TB_LIMIT_WINDOW_US           ? 0
                    : ahead + cost > TB_LIMIT_WINDOW_US ? ahead + cost - TB_LIMIT_WINDOW_US
                                                        : 0;
    return ahead + cost <= TB_LIMIT_WINDOW_US;
}

bool tb_limit_enter(struct tb_limiter *l, uint64_t now_us, struct tb_limit_refusal *ret)
{
    uint64_t cost = l->limits.rpm ? limit_cost_us(1, l->limits.rpm) : 0;

    *ret = (struct tb_limit_refusal){0};
    if (l->limits.concurrent && l->in_flight >= l->limits.concurrent) {
        *ret = (struct tb_limit_refusal){TB_LIMIT_CONCURRENT, 1000000};
        return false;
    }
    if (l->limits.rpm && !limit_fits(l->requests_until_us, now_us, cost, &ret->retry_us)) {
        ret->limit = TB_LIMIT_REQUESTS;
        return false;
    }
    l->requests_until_us = MAX(l->requests_until_us, now_us) + cost;
    l->in_flight++;
    return true;
}

void tb_limit_leave(struct tb_limiter *l)
{
    assert(l->in_flight > 0);
    l->in_flight--;
}

uint64_t tb_limit_budget_left(const struct tb_limiter *l, uint64_t spent)
{
    uint64_t gone = spent + l->reserved;

    return gone < l->limits.budget ? l->limits.budget - gone : 0;
}

uint64_t tb_limit_budget_free(const struct tb_limiter *l, uint64_t spent)
{
    uint64_t left = tb_limit_budget_left(l, spent);

    return left - MIN(left, l->slack);
}

bool tb_limit_reserve(struct tb_limiter *l, uint64_t now_us, uint64_t spent, const struct tb_limit_need *need,
                      struct tb_reservation *ret, struct tb_limit_refusal *ret_refusal)
{
    /* An estimate never stands in the way of a request for good. */
    uint64_t rate = MAX(need->asked, MIN(need->rate, l->limits.tpm));
    uint64_t cost = l->limits.tpm ? limit_cost_us(rate, l->limits.tpm) : 0;

    *ret = (struct tb_reservation){0};
    *ret_refusal = (struct tb_limit_refusal){0};
    if (l->limits.budget && need->budget > tb_limit_budget_free(l, spent)) {
        /* What others have reserved may come back. */
        bool later = l->reserved > 0 && spent + need->budget <= l->limits.budget;

        *ret_refusal = (struct tb_limit_refusal){TB_LIMIT_BUDGET, later ? 1000000 : 0};
        return false;
    }
    if (l->limits.tpm && !limit_fits(l->tokens_until_us, now_us, cost, &ret_refusal->retry_us)) {
        ret_refusal->limit = TB_LIMIT_TOKENS;
        return false;
    }
    l->tokens_until_us = MAX(l->tokens_until_us, now_us) + cost;
    *ret = (struct tb_reservation){.rate = rate, .budget = need->budget};
    if (l->limits.budget)
        ret->slack = MIN(need->slack, tb_limit_budget_free(l, spent) - need->budget);
    l->reserved += need->budget;
    l->slack += ret->slack;
    return true;
}

void tb_limit_settle(struct tb_limiter *l, uint64_t now_us, const struct tb_reservation *r, uint64_t used)
{
    assert(l->reserved >= r->budget);
    l->reserved -= r->budget;
    l->slack -= r->slack;
    if (!l->limits.tpm)
        return;
    if (used >= r->rate) {
        l->tokens_until_us = MAX(l->tokens_until_us, now_us) + limit_cost_us(used - r->rate, l->limits.tpm);
    } else {
        uint64_t back = limit_cost_us(r->rate - used, l->limits.tpm);

        l->tokens_until_us = l->tokens_until_us > back ? l->tokens_until_us - back : 0;
    }
}

uint64_t tb_limit_requests_left(const struct tb_limiter *l, uint64_t now_us, uint64_t *ret_reset_us)
{
    *ret_reset_us = limit_ahead_us(l->requests_until_us, now_us);
    return limit_units_left(l->requests_until_us, now_us, l->limits.rpm);
}

uint64_t tb_limit_tokens_left(const struct tb_limiter *l, uint64_t now_us, uint64_t *ret_reset_us)
{
    *ret_reset_us = limit_ahead_us(l->tokens_until_us, now_us);
    return limit_units_left(l->tokens_until_us, now_us, l->limits.tpm);
}
