/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/macros.h"
#include "proxy/usage/cost.h"

static const struct tb_runtime_limits small = {.context = 512, .completion_max = 4096};
static const struct tb_runtime_limits large = {.context = 20000, .completion_max = 4096};
static const struct tb_runtime_limits silent = {.completion_max = 4096};

static struct tb_cost cost_of(struct tb_request_size s, const struct tb_runtime_limits *l, uint64_t left)
{
    struct tb_cost c;

    s.prompts = MAX(s.prompts, 1);
    s.may_cap = true;
    tb_cost_of(&s, l, left, &c);
    return c;
}

static void test_amounts(void **unused)
{
    const struct {
        struct tb_request_size size;
        const struct tb_runtime_limits *runtime;
        uint64_t left, likely, most, cap;
    } rows[] = {
        /* A limit that fits is what is held. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1, .max_tokens = 64},
         &large,
         1000,
         74,
         164,
         0},
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 3, .max_tokens = 64},
         &large,
         1000,
         202,
         292,
         0},
        /* More than the runtime can generate is not held. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1, .max_tokens = 100000},
         &small,
         600,
         522,
         512,
         0},
        /* Without a limit: all that the runtime can, and nothing is written while that is there. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1}, &small, 512, 266, 512, 0},
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1}, &large, 1000, 266, 1000, 900},
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 2}, &large, 1001, 522, 1000, 450},
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1}, &silent, 10000, 266, 4196, 4096},
        /* A prompt that cannot be paid: no limit helps. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1}, &large, 100, 266, 101, 0},
        /* One that a runtime may read as without a limit. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1, .max_tokens = 5, .open = true},
         &large,
         1000,
         15,
         1000,
         900},
        /* What was asked for likely fits: held to what is left, not refused. */
        {{.prompt_likely = 25, .prompt_most = 200, .completions = 1, .max_tokens = 600},
         &large,
         700,
         625,
         700,
         500},
        /* What was asked for and does not fit is too much. */
        {{.prompt_likely = 25, .prompt_most = 200, .completions = 1, .max_tokens = 4000},
         &large,
         700,
         4025,
         4200,
         0},
        /* Nothing is generated. */
        {{.prompt_likely = 25, .prompt_most = 200}, &large, 10, 25, 200, 0},
        {{.prompt_likely = 25, .prompt_most = 900, .prompts = 3}, &small, 10, 25, 900, 0},
        {{.prompt_likely = 25, .prompt_most = 9000, .prompts = 3}, &small, 10, 25, 1536, 0},
        /* Without a budget nothing is written. */
        {{.prompt_likely = 10, .prompt_most = 100, .completions = 1}, &large, UINT64_MAX, 266, 20000, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct tb_cost c = cost_of(rows[i].size, rows[i].runtime, rows[i].left);

        if (c.likely != rows[i].likely || c.most != rows[i].most || c.cap != rows[i].cap)
            print_error("row %zu: %llu %llu %llu\n", i, (unsigned long long)c.likely,
                        (unsigned long long)c.most, (unsigned long long)c.cap);
        assert_int_equal(c.likely, rows[i].likely);
        assert_int_equal(c.most, rows[i].most);
        assert_int_equal(c.cap, rows[i].cap);
    }
}

/* A template adds what it adds, whatever it was taken for: what it may add beside what is known has its room. */
static void test_templates(void **unused)
{
    struct tb_request_size s = {
        .prompt_likely = 1, .prompt_most = 100, .templates = 1, .completions = 1, .max_tokens = 500};
    struct tb_runtime_limits l = large;
    struct tb_cost c = cost_of(s, &l, 10000);

    assert_int_equal(c.slack, 0);
    tb_cost_learn(&s, 1, &l); /* of a plain prompt */
    s.conversation = true;
    c = cost_of(s, &l, 10000);

    assert_int_equal(c.cap, 0);
    assert_int_equal(c.most, 600);
    assert_int_equal(c.slack, TB_COST_TEMPLATE - 64);
    c = cost_of(s, &l, 1000); /* half of what there is above a prompt and a token */
    assert_int_equal(c.slack, (1000 - 101) / 2);
    assert_int_equal(c.cap, 1000 - 100 - c.slack);
    assert_int_equal(c.most, 1000 - c.slack);
    tb_cost_learn(&s, 5, &l); /* one that it may add less to shows nothing of the others */
    assert_int_equal(l.template_most, 0);
    s.usual = true;
    tb_cost_learn(&s, 90, &l); /* it adds 54 at least, and 90 at most */
    c = cost_of(s, &l, 1000);
    assert_int_equal(c.most, 600);
    assert_int_equal(c.slack, 90 - 64);
    tb_cost_learn(&s, 50, &l);
    assert_int_equal(cost_of(s, &l, 1000).slack, 0);
    tb_cost_learn(&s, 36 + 300, &l); /* not always the same */
    tb_cost_learn(&s, 36 + 20, &l);
    c = cost_of(s, &l, 1000);
    assert_int_equal(c.most, 100 + 300 - 64 + 500);
    assert_int_equal(c.slack, 0);
    c = cost_of(s, &l, 800);
    assert_int_equal(c.cap, 800 - 100 - (300 - 64));
    s.templates = 3;
    s.prompt_most = 228;
    c = cost_of(s, &l, 10000);
    assert_int_equal(c.most, 228 + 3 * (300 - 64) + 500);
    tb_cost_learn(&s, 36 + 3 * 400, &l);
    assert_int_equal(cost_of(s, &l, 10000).most, 228 + 3 * (400 - 64) + 500);
    s.prompt_most = UINT64_MAX; /* says nothing of the template */
    tb_cost_learn(&s, 100000, &l);
    assert_int_equal(l.template_least, 400);
}

/* What a runtime keeps of a prompt has no size here: its context, or what stands for that. */
static void test_a_prompt_that_is_elsewhere(void **unused)
{
    struct tb_request_size s = {
        .prompt_likely = 10, .prompt_most = UINT64_MAX, .templates = 1, .completions = 1, .max_tokens = 100};

    assert_int_equal(cost_of(s, &large, 30000).most, 20000);
    assert_int_equal(cost_of(s, &small, 600).most, 512);
    assert_int_equal(cost_of(s, &silent, 5000).most, 4096 + 100);
    assert_int_equal(cost_of(s, &silent, 5000).cap, 0);
    assert_true(cost_of(s, &silent, 4000).most > 4000);
    s.max_tokens = 0;
    assert_int_equal(cost_of(s, &silent, 5000).most, 5000);
    assert_int_equal(cost_of(s, &silent, 5000).cap, 5000 - 4096);
}

/* Against a runtime that does its worst: what it generates is never more than what was reserved. */
static void test_no_runtime_exceeds_what_is_held(void **unused)
{
    srandom(1);
    for (int i = 0; i < 200000; i++) {
        uint64_t context = 1 + (uint64_t)random() % 600, choices = 1 + (uint64_t)random() % 4;
        uint64_t prompts = 1 + (uint64_t)random() % 3, left = (uint64_t)random() % 3000, worst = 0;
        struct tb_runtime_limits l = {.context = random() % 4 ? context : 0, .completion_max = 300};
        struct tb_request_size s = {
            .prompts = prompts,
            .completions = prompts * choices,
            .prompt_most = (uint64_t)random() % 900,
            .max_tokens = random() % 2 ? (uint64_t)random() % 700 : 0,
            .open = random() % 3 == 0,
            .may_cap = random() % 4 != 0,
        };
        struct tb_cost c;
        uint64_t limit, prompt = s.prompt_most > 0 ? (uint64_t)random() % s.prompt_most : 0;

        s.prompt_likely = prompt;
        tb_cost_of(&s, &l, left, &c);
        if (c.most > left)
            continue;
        limit = c.cap > 0 ? c.cap : s.open || s.max_tokens == 0 ? context : s.max_tokens;
        if (l.context == 0 && c.cap == 0 && (s.open || s.max_tokens == 0))
            continue; /* nobody can say */
        for (uint64_t k = 0; k < prompts; k++) {
            uint64_t p = prompt / prompts;

            if (p <= context)
                worst += p + choices * MIN(limit, context - p);
        }
        assert_true(worst <= c.most);
    }
}

static void test_sums_do_not_overflow(void **unused)
{
    struct tb_request_size s = {.prompt_likely = UINT64_MAX,
                                .prompt_most = UINT64_MAX,
                                .completions = UINT64_MAX,
                                .max_tokens = UINT64_MAX,
                                .prompts = UINT64_MAX};

    assert_int_equal(cost_of(s, &silent, 5).most, TB_COST_MAX);
    assert_int_equal(cost_of(s, &large, 5).most, TB_COST_MAX);
    assert_int_equal(cost_of(s, &large, 5).likely, TB_COST_MAX);
    s.max_tokens = 0;
    assert_int_equal(cost_of(s, &silent, UINT64_MAX - 1).most, TB_COST_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_amounts),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_a_prompt_that_is_elsewhere),
        cmocka_unit_test(test_no_runtime_exceeds_what_is_held),
        cmocka_unit_test(test_sums_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
