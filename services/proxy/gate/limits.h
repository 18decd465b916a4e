/* SPDX-License-Identifier: Apache-2.0 */
/* What one API key may use: requests and tokens a minute, requests at once, tokens for good. Tokens are
 * reserved before the runtime can start and settled when it is known what they were, so that requests side
 * by side cannot overspend. Pure: the caller gives the time and keeps what must outlive the process. */
#ifndef TB_PROXY_GATE_LIMITS_H
#define TB_PROXY_GATE_LIMITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_LIMIT_MAX 1000000000000ULL  /* of each limit */
#define TB_LIMIT_WINDOW_US 60000000ULL /* a minute: what may come at once when nothing came before */

struct tb_limits {
    uint64_t rpm, tpm, concurrent, budget; /* 0: no such limit */
};

struct tb_limiter {
    struct tb_limits limits;
    /* private: times until which the past requests and tokens have used up their share of the minute */
    uint64_t requests_until_us, tokens_until_us;
    uint64_t in_flight;
    uint64_t reserved; /* of the budget, by requests in flight */
    uint64_t slack;    /* kept beside that */
};

enum tb_limit { TB_LIMIT_NONE, TB_LIMIT_REQUESTS, TB_LIMIT_TOKENS, TB_LIMIT_CONCURRENT, TB_LIMIT_BUDGET };
/* Which limit said no, and when asking again may help. 0: never by itself. */
struct tb_limit_refusal {
    enum tb_limit limit;
    uint64_t retry_us;
};

/* A request comes: counts it against rpm and concurrent. False and *ret when it may not. */
bool tb_limit_enter(struct tb_limiter *l, uint64_t now_us, struct tb_limit_refusal *ret);
void tb_limit_leave(struct tb_limiter *l);

/* What a request may cost (usage/cost.h). */
struct tb_limit_need {
    uint64_t rate;   /* tokens it likely costs */
    uint64_t budget; /* tokens it costs at most, as far as anybody knows */
    uint64_t slack;  /* tokens to keep beside, in case it costs more; as many as there are */
    uint64_t asked;  /* of rate, what the client asked for: more than a whole minute has never fits */
};
struct tb_reservation {
    uint64_t rate, budget, slack; /* tokens */
};
/* spent: tokens of the budget used up to now. False and *ret_refusal when it does not fit; nothing is held
 * then. */
bool tb_limit_reserve(struct tb_limiter *l, uint64_t now_us, uint64_t spent, const struct tb_limit_need *need,
                      struct tb_reservation *ret, struct tb_limit_refusal *ret_refusal);
/* The request is over and cost `used` tokens; the caller adds them to what is spent. */
void tb_limit_settle(struct tb_limiter *l, uint64_t now_us, const struct tb_reservation *r, uint64_t used);

/* For x-ratelimit- headers: what is left now, and when all of it is back. */
uint64_t tb_limit_requests_left(const struct tb_limiter *l, uint64_t now_us, uint64_t *ret_reset_us);
uint64_t tb_limit_tokens_left(const struct tb_limiter *l, uint64_t now_us, uint64_t *ret_reset_us);
uint64_t tb_limit_budget_left(const struct tb_limiter *l, uint64_t spent);
/* ... that a request may reserve. */
uint64_t tb_limit_budget_free(const struct tb_limiter *l, uint64_t spent);

#endif
