/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/io.h"
#include "proxy/gate/key_accounts.h"

#define S 1000000ULL

static void test_requests_a_minute(void **unused)
{
    struct tb_limiter l = {.limits.rpm = 3};
    struct tb_limit_refusal no;
    uint64_t now = 1000 * S, reset;

    for (int i = 0; i < 3; i++)
        assert_true(tb_limit_enter(&l, now, &no));
    assert_int_equal(tb_limit_requests_left(&l, now, &reset), 0);
    assert_int_equal(reset, 60 * S);
    assert_false(tb_limit_enter(&l, now, &no));
    assert_int_equal(no.limit, TB_LIMIT_REQUESTS);
    assert_int_equal(no.retry_us, 20 * S);
    assert_false(tb_limit_enter(&l, now + no.retry_us - 1, &no));
    assert_true(tb_limit_enter(&l, now + 20 * S, &no));
    assert_int_equal(tb_limit_requests_left(&l, now + 200 * S, &reset), 3);
}

static void test_requests_at_once(void **unused)
{
    struct tb_limiter l = {.limits.concurrent = 2};
    struct tb_limit_refusal no;

    assert_true(tb_limit_enter(&l, 1, &no) && tb_limit_enter(&l, 1, &no));
    assert_false(tb_limit_enter(&l, 1, &no));
    assert_int_equal(no.limit, TB_LIMIT_CONCURRENT);
    assert_true(no.retry_us > 0);
    tb_limit_leave(&l);
    assert_true(tb_limit_enter(&l, 1, &no));
}

static void test_tokens_a_minute(void **unused)
{
    struct tb_limiter l = {.limits.tpm = 1000};
    struct tb_limit_need need = {.rate = 600, .asked = 600};
    struct tb_reservation a, b;
    struct tb_limit_refusal no;
    uint64_t reset;

    assert_true(tb_limit_reserve(&l, S, 0, &need, &a, &no));
    assert_int_equal(a.rate, 600);
    assert_int_equal(tb_limit_tokens_left(&l, S, &reset), 400);
    assert_false(tb_limit_reserve(&l, S, 0, &need, &b, &no));
    assert_int_equal(no.limit, TB_LIMIT_TOKENS);
    assert_int_equal(no.retry_us, 12 * S); /* 200 tokens at 1000 a minute */
    tb_limit_settle(&l, S, &a, 100);
    assert_int_equal(tb_limit_tokens_left(&l, S, &reset), 900);
    need.rate = need.asked = 2000; /* never fits */
    assert_false(tb_limit_reserve(&l, 1000 * S, 0, &need, &b, &no));
    assert_int_equal(no.retry_us, 0);
    need.rate = need.asked = 200;
    assert_true(tb_limit_reserve(&l, 2000 * S, 0, &need, &b, &no));
    tb_limit_settle(&l, 2000 * S, &b, 5000); /* more than reserved: paid for later */
    assert_int_equal(tb_limit_tokens_left(&l, 2000 * S, &reset), 0);
    assert_int_equal(tb_limit_tokens_left(&l, 2240 * S, &reset), 0);
    assert_int_equal(tb_limit_tokens_left(&l, 2270 * S, &reset), 500);
}

/* What we only guess is larger than a minute has: the request goes ahead and the usage settles it. */
static void test_an_estimate_does_not_refuse_for_good(void **unused)
{
    struct tb_limiter l = {.limits.tpm = 1000};
    struct tb_limit_need need = {.rate = 5000};
    struct tb_reservation a;
    struct tb_limit_refusal no;
    uint64_t reset;

    assert_true(tb_limit_reserve(&l, S, 0, &need, &a, &no));
    assert_int_equal(a.rate, 1000);
    tb_limit_settle(&l, S, &a, 300);
    assert_int_equal(tb_limit_tokens_left(&l, S, &reset), 700);
}

static void test_budget(void **unused)
{
    struct tb_limiter l = {.limits.budget = 1000};
    struct tb_limit_need need = {.rate = 600, .budget = 764, .asked = 600};
    struct tb_reservation a, b;
    struct tb_limit_refusal no;

    assert_true(tb_limit_reserve(&l, 0, 100, &need, &a, &no));
    assert_int_equal(a.budget, 764);
    assert_false(tb_limit_reserve(&l, 0, 100, &need, &b, &no));
    assert_int_equal(no.limit, TB_LIMIT_BUDGET);
    assert_true(no.retry_us > 0); /* what is reserved may come back */
    tb_limit_settle(&l, 0, &a, 50);
    assert_int_equal(tb_limit_budget_left(&l, 150), 850);
    assert_false(tb_limit_reserve(&l, 0, 900, &need, &b, &no));
    assert_int_equal(no.retry_us, 0);
    need.budget = UINT64_MAX; /* no overflow lets it through */
    assert_false(tb_limit_reserve(&l, 0, 0, &need, &b, &no));
    assert_int_equal(tb_limit_budget_left(&l, UINT64_MAX / 2), 0);
}

static void test_costs_do_not_overflow(void **unused)
{
    static const uint64_t rates[] = {1, 7, 1000, TB_LIMIT_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        struct tb_limiter l = {.limits.tpm = rates[i], .limits.rpm = rates[i]};
        struct tb_limit_need need = {.rate = TB_LIMIT_MAX, .budget = TB_LIMIT_MAX, .asked = TB_LIMIT_MAX};
        struct tb_reservation r = {0};
        struct tb_limit_refusal no;
        uint64_t reset;

        assert_true(tb_limit_enter(&l, S, &no));
        if (rates[i] < TB_LIMIT_MAX)
            assert_false(tb_limit_reserve(&l, S, 0, &need, &r, &no));
        tb_limit_settle(&l, S, &r, UINT64_MAX);
        (void)tb_limit_tokens_left(&l, S, &reset);
        assert_true(reset <= 1000 * TB_LIMIT_WINDOW_US + 1);
    }
}

/* --- the file of keys -------------------------------------------------------------------------------------------- */

#define SHA "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define OTHER_SHA "0000000000000000000000000000000000000000000000000000000000000000"

static void test_keys_with_limits(void **unused)
{
    static const char text[] =
        "old:" OTHER_SHA "\nnew:" SHA "  rpm=60 tpm=10000\tconcurrent=4 budget=1000000 \r\nnew:" SHA
        " budget=1000000 concurrent=4 tpm=10000 rpm=60\n";
    char err[TB_API_KEYS_ERR_MAX];
    struct tb_api_keys k;

    assert_int_equal(tb_api_keys_parse(text, sizeof(text) - 1, &k, err), 0);
    assert_int_equal(k.n, 3);
    assert_int_equal(k.key[0].limits.rpm, 0);
    assert_int_equal(k.key[1].limits.rpm, 60);
    assert_int_equal(k.key[1].limits.tpm, 10000);
    assert_int_equal(k.key[1].limits.concurrent, 4);
    assert_int_equal(k.key[2].limits.budget, 1000000);
    tb_api_keys_clear(&k);
}

static void test_bad_keys_name_their_line(void **unused)
{
    static const char *const bad[] = {"x:" SHA " rpm",
                                      "x:" SHA " rpm=",
                                      "x:" SHA " rpm=0",
                                      "x:" SHA " rpm=-1",
                                      "x:" SHA " rpm=1.5",
                                      "x:" SHA " rpm=1 rpm=2",
                                      "x:" SHA " burst=1",
                                      "x:" SHA "rpm=1",
                                      "x:" SHA " budget=99999999999999",
                                      "x " SHA,
                                      "x:" SHA ",rpm=1",
                                      ":" SHA,
                                      "x y:" SHA,
                                      "ok:" SHA " rpm=2"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_free_ char *text = tb_strf("ok:" SHA " rpm=1\n# fine\n%s\n", bad[i]);
        char err[TB_API_KEYS_ERR_MAX];
        struct tb_api_keys k = {0};

        assert_int_equal(tb_api_keys_parse(text, strlen(text), &k, err), -EINVAL);
        assert_non_null(strstr(err, "line 3 "));
        assert_null(strstr(err, SHA));
    }
}

/* --- accounts ---------------------------------------------------------------------------------------------------- */

static void test_accounts_outlive_the_process(void **unused)
{
    char path[] = "/tmp/tb-keys-XXXXXX";
    struct tb_api_key key[] = {{.name = "a", .limits.rpm = 1}, {.name = "b"}, {.name = "a", .limits.rpm = 1}};
    struct tb_api_keys keys = {.key = key, .n = 3};
    struct tb_tokens t = {.prompt = 5, .completion = 7, .cached = 2, .ours = 1};
    struct tb_key_accounts *b;
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(tb_key_accounts_open(path, &b), 0);
    assert_int_equal(tb_key_accounts_bind(b, &keys), 0);
    assert_ptr_equal(key[0].account, key[2].account);
    assert_int_equal(key[0].account->limiter.limits.rpm, 1);
    tb_key_add_tokens(key[0].account, &t);
    tb_key_add_request(key[1].account, 3, 4);
    tb_key_accounts_close(b);
    key[0] = key[1]; /* "a" is given up, later it comes back */
    keys.n = 1;
    assert_int_equal(tb_key_accounts_open(path, &b), 0);
    assert_int_equal(tb_key_accounts_bind(b, &keys), 0);
    assert_int_equal(key[0].account->record->bytes_out, 4);
    assert_int_equal(tb_key_spent(key[0].account), 0);
    strcpy(key[0].name, "a");
    assert_int_equal(tb_key_accounts_bind(b, &keys), 0);
    assert_int_equal(tb_key_spent(key[0].account), 12);
    tb_key_accounts_close(b);
    assert_int_equal(tb_pwrite_full(fd, "something", 9, 0), 0);
    assert_int_equal(tb_key_accounts_open(path, &b), -EBADMSG);
    close(fd);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_a_minute),
        cmocka_unit_test(test_requests_at_once),
        cmocka_unit_test(test_tokens_a_minute),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_an_estimate_does_not_refuse_for_good),
        cmocka_unit_test(test_costs_do_not_overflow),
        cmocka_unit_test(test_keys_with_limits),
        cmocka_unit_test(test_bad_keys_name_their_line),
        cmocka_unit_test(test_accounts_outlive_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
