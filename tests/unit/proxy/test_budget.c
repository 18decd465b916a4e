/* SPDX-License-Identifier: Apache-2.0 */
/* "A budget cannot be overspent", against a model: clients that ask for anything, side by side, leave at any moment or wait for the end, a
 * runtime that generates all it may, and a proxy that is killed in between. 200 seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "proxy/gate/key_accounts.h"
#include "proxy/usage/cost.h"

#define SEEDS 200
#define STEPS 400
#define IN_FLIGHT 8
#define S 1000000ULL

/* --- the model --------------------------------------------------------------------------------------------------- */

struct model_request {
    bool taken;
    struct tb_reservation reservation;
    uint64_t prompt;    /* tokens that it really has */
    uint64_t generates; /* tokens that the runtime makes of it in the end */
    uint64_t delivered; /* of them, to the client, so far */
    bool answered;      /* the prompt counts from the first event on */
};

struct model {
    uint64_t seed;
    uint64_t budget, tpm, now_us;
    struct tb_runtime_limits runtime; /* as the proxy knows it */
    uint64_t context;                 /* as it is */
    const char *path;
    struct tb_key_accounts *book;
    struct tb_api_key key;
    struct tb_key_account *account;
    struct model_request request[IN_FLIGHT];
    uint64_t started, refused, most_over; /* most_over: beyond the estimate, of one request */
    uint64_t used;                        /* tokens since the last kill */
    uint64_t since_us;
};

static uint64_t model_random(struct model *m, uint64_t below)
{
    m->seed = m->seed * 6364136223846793005ULL + 1442695040888963407ULL;
    return (m->seed >> 33) % below;
}

static void model_open(struct model *m)
{
    struct tb_api_keys keys = {.key = &m->key, .n = 1};

    assert_int_equal(tb_key_accounts_open(m->path, &m->book), 0);
    assert_int_equal(tb_key_accounts_bind(m->book, &keys), 0);
    m->account = tb_key_account_use(&m->key);
}

static uint64_t model_cost(const struct model_request *r)
{
    return r->answered ? r->prompt + r->delivered : 0;
}

/* What clients have got, whether it is booked yet or not. */
static uint64_t model_got(const struct model *m)
{
    uint64_t n = tb_key_spent(m->account);

    for (size_t i = 0; i < IN_FLIGHT; i++)
        if (m->request[i].taken)
            n += model_cost(&m->request[i]);
    return n;
}

/* A request as clients send them: with and without limits, several choices, several prompts, embeddings. */
static struct tb_request_size model_size(struct model *m)
{
    uint64_t bytes = 1 + model_random(m, model_random(m, 10) == 0 ? 3000 : 200);
    struct tb_request_size s = {
        .prompt_likely = bytes / 4, .prompt_most = bytes, .prompts = 1 + model_random(m, 2)};

    s.completions = model_random(m, 8) == 0 ? 0 : s.prompts * (1 + model_random(m, 3));
    s.max_tokens = model_random(m, 3) == 0 ? 0 : 1 + model_random(m, 400);
    s.open = s.max_tokens == 0 || model_random(m, 8) == 0;
    s.may_cap = s.max_tokens == 0;
    return s;
}

/* Tokens that the runtime generates when nobody stops it: to the end of its context, but for the limit that it reads. A request that a
 * runtime may read as without a limit is read so. */
static uint64_t model_generates(const struct model *m, const struct tb_request_size *s,
                                const struct tb_cost *c, uint64_t prompt)
{
    uint64_t room = m->context - prompt / s->prompts; /* each prompt has a context of its own */
    uint64_t limit = c->cap ? c->cap : s->open || !s->max_tokens ? room : s->max_tokens;

    return s->completions * (limit < room ? limit : room);
}

/* --- steps ------------------------------------------------------------------------------------------------------- */

static void model_start(struct model *m, struct model_request *r)
{
    struct tb_request_size size = model_size(m);
    struct tb_limiter *l = &m->account->limiter;
    uint64_t spent = tb_key_spent(m->account), left = m->budget ? tb_limit_budget_left(l, spent) : UINT64_MAX;
    uint64_t others = l->reserved;
    struct tb_limit_refusal no;
    struct tb_limit_need need;
    struct tb_cost cost;

    /* What the runtime would not take is no concern here, and neither is a request that a client limits in a way no runtime knows. */
    if (size.prompt_most >= m->context || (size.open && !size.may_cap && m->runtime.context == 0))
        return;
    if (!tb_limit_enter(l, m->now_us, &no))
        return;
    tb_cost_of(&size, &m->runtime, left, &cost);
    need = (struct tb_limit_need){.rate = cost.likely, .budget = cost.most, .asked = cost.asked};
    if (!tb_limit_reserve(l, m->now_us, spent, &need, &r->reservation, &no)) {
        m->refused++;
        tb_limit_leave(l);
        assert_int_equal(l->reserved, others);
        if (no.limit == TB_LIMIT_BUDGET) { /* only what the budget cannot pay for certain */
            assert_true(cost.most > left);
            assert_true(no.retry_us == 0 || others > 0);
        }
        return;
    }
    assert_true(cost.most <= left);
    m->started++;
    *r = (struct model_request){.taken = true, .reservation = r->reservation};
    r->prompt = 1 + model_random(m, size.prompt_most);
    r->generates = model_generates(m, &size, &cost, r->prompt);
}

static void model_finish(struct model *m, struct model_request *r)
{
    struct tb_tokens t = {.prompt = r->answered ? r->prompt : 0, .completion = r->delivered};
    uint64_t used = model_cost(r);

    tb_key_add_tokens(m->account, &t);
    tb_limit_settle(&m->account->limiter, m->now_us, &r->reservation, used);
    tb_limit_leave(&m->account->limiter);
    m->used += used;
    if (used > r->reservation.rate && used - r->reservation.rate > m->most_over)
        m->most_over = used - r->reservation.rate;
    r->taken = false;
}

/* SIGKILL: what was delivered is booked by the next process (usage/in_flight.h); what was reserved is forgotten. */
static void model_kill(struct model *m)
{
    tb_key_accounts_close(m->book);
    model_open(m);
    for (size_t i = 0; i < IN_FLIGHT; i++) {
        struct model_request *r = &m->request[i];
        struct tb_tokens t = {.prompt = r->answered ? r->prompt : 0, .completion = r->delivered};

        if (r->taken)
            tb_key_accounts_add(m->book, m->account->place, &t);
        r->taken = false;
    }
    m->used = m->most_over = 0;
    m->since_us = m->now_us;
}

static void model_step(struct model *m)
{
    struct model_request *r = &m->request[model_random(m, IN_FLIGHT)];

    m->now_us += model_random(m, 2 * S);
    if (model_random(m, 200) == 0)
        return model_kill(m);
    if (!r->taken)
        return model_start(m, r);
    switch (model_random(m, 4)) {
    case 0: /* the client leaves, perhaps before the first event */
        return model_finish(m, r);
    case 1: /* to the end */
        r->answered = true;
        r->delivered = r->generates;
        return model_finish(m, r);
    default:
        r->answered = true;
        if (r->generates > r->delivered)
            r->delivered += 1 + model_random(m, r->generates - r->delivered);
    }
}

/* --- what must hold ---------------------------------------------------------------------------------------------- */

static void model_run(uint64_t seed, uint64_t budget, uint64_t tpm, uint64_t *started)
{
    char path[] = "/dev/shm/tb-budget-XXXXXX";
    struct model m = {
        .seed = seed, .budget = budget, .tpm = tpm, .now_us = 1000 * S, .since_us = 1000 * S, .path = path};
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    close(fd);
    m.context = 256 + model_random(&m, 4096);
    m.runtime.context = model_random(&m, 2) ? m.context : 0;
    m.runtime.completion_max = 1 + model_random(&m, 2 * m.context);
    m.key = (struct tb_api_key){.name = "k", .limits = {.budget = budget, .tpm = tpm}};
    model_open(&m);
    for (int i = 0; i < STEPS; i++) {
        model_step(&m);
        if (budget)
            assert_true(model_got(&m) <= budget);
        /* A rate pays for what was more than expected afterwards: never more than a minute's worth ahead, and what one each of those in
         * flight took beyond its estimate. */
        if (tpm)
            assert_true(m.used <=
                        tpm + (m.now_us - m.since_us) * tpm / (60 * S) + IN_FLIGHT * m.most_over + 1);
    }
    for (size_t i = 0; i < IN_FLIGHT; i++)
        if (m.request[i].taken)
            model_finish(&m, &m.request[i]);
    assert_int_equal(m.account->limiter.reserved, 0);
    assert_int_equal(m.account->limiter.in_flight, 0);
    assert_true(!budget || tb_key_spent(m.account) <= budget);
    *started += m.started;
    tb_key_accounts_close(m.book);
    unlink(path);
}

static void test_a_budget_is_never_overspent(void **unused)
{
    uint64_t started = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        model_run(seed, 200 + seed * 317 % 60000, 0, &started);
    assert_true(started > SEEDS * 20); /* and it lets something through */
}

static void test_a_rate_is_kept_in_the_long_run(void **unused)
{
    uint64_t started = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        model_run(seed, 0, 100 + seed * 131 % 20000, &started);
    assert_true(started > SEEDS * 10);
}

static void test_both_at_once(void **unused)
{
    uint64_t started = 0;

    for (uint64_t seed = 1; seed <= SEEDS; seed++)
        model_run(seed, 500 + seed * 317 % 60000, 100 + seed * 131 % 20000, &started);
    assert_true(started > SEEDS * 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_budget_is_never_overspent),
        cmocka_unit_test(test_a_rate_is_kept_in_the_long_run),
        cmocka_unit_test(test_both_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
