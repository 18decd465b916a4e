/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/usage/rewrite.h"

/* Feeds text in pieces of `step` bytes and returns what the runtime would get. */
static void feed(struct tb_rewrite *a, const char *text, size_t step, uint64_t max_tokens, struct tb_buf *out)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < len;) {
        size_t n = MIN(step, len - i), used;
        int r = tb_rewrite_feed(a, text + i, n, out, &used);

        assert_true(r == 0 || r == 1);
        assert_true(r == 1 || used == n);
        if (r == 1)
            assert_int_equal(tb_rewrite_close(a, max_tokens, out), 0);
        i += used;
    }
}

static void check(enum tb_api kind, const char *in, uint64_t max_tokens, const char *want)
{
    for (size_t step = 1; step < 40; step += 3) {
        struct tb_rewrite a = {.kind = kind};
        _cleanup_buf_ struct tb_buf out = {0};
        size_t len = strlen(in), n;

        feed(&a, in, step, max_tokens, &out);
        assert_int_equal(out.len, strlen(want));
        assert_memory_equal(out.data, want, out.len);
        n = out.len;
        assert_int_equal(tb_rewrite_pad(&a, &out), 0);
        assert_int_equal(out.len, len + TB_REWRITE_GROWTH);
        for (; n < out.len; n++)
            assert_int_equal(out.data[n], ' ');
    }
}

static void test_usage_is_asked_for(void **unused)
{
    check(TB_API_CHAT, "{\"stream\": true}", 0,
          "{\"stream\": true,\"stream_options\":{\"include_usage\":true}}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{}}\n", 0,
          "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}\n");
    check(TB_API_COMPLETION, "{\"stream_options\":{\"a\":[{}]},\"stream\":true}", 0,
          "{\"stream_options\":{\"a\":[{}],\"include_usage\":true},\"stream\":true}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{\"include_usage\":false}}", 0,
          "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}", 0,
          "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":null}", 0,
          "{\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

static void test_what_is_left_alone(void **unused)
{
    static const char *const same[] = {"{}",
                                       "{\"stream\":false}",
                                       "{\"x\":{\"stream\":true}}",
                                       "[{\"stream\":true}]",
                                       "null",
                                       "{\"stream\":true",
                                       "{]",
                                       "\"{\"",
                                       "{\"stream\":\"true\"}"};

    for (size_t i = 0; i < ARRAY_SIZE(same); i++)
        check(TB_API_CHAT, same[i], 0, same[i]);
    check(TB_API_RESPONSE, "{\"stream\":true}", 0, "{\"stream\":true}");
    check(TB_API_OTHER, "{\"stream\":true,\"stream_options\":null}", 0,
          "{\"stream\":true,\"stream_options\":null}");
}

static void test_a_limit_is_set_where_none_is_given(void **unused)
{
    check(TB_API_CHAT, "{}", 7, "{\"max_tokens\":7}");
    check(
        TB_API_CHAT, "{\"stream\":true}", UINT64_MAX,
        "{\"stream\":true,\"stream_options\":{\"include_usage\":true},\"max_tokens\":18446744073709551615}");
    check(TB_API_RESPONSE, "{\"a\":1}", 7, "{\"a\":1,\"max_output_tokens\":7}");
    check(TB_API_CHAT, "{\"max_completion_tokens\":9}", 7, "{\"max_completion_tokens\":9}");
}

static struct tb_rewrite facts(const char *text)
{
    struct tb_rewrite a = {.kind = TB_API_COMPLETION};
    _cleanup_buf_ struct tb_buf out = {0};

    feed(&a, text, 5, 0, &out);
    return a;
}

static void test_facts(void **unused)
{
    static const char *const bad[] = {
        "0", "-1", "null", "1.5", "1e3", "\"5\"", "[5]", "{}", "99999999999999999999999999"};
    struct tb_rewrite a =
        facts("{\"max_tokens\":5,\"n\":3,\"best_of\":4,\"prompt\":[\"a\",\"b\",[1,2]],\"max_tokens\":4}");

    assert_true(a.complete && a.max_given && !a.max_bad);
    assert_int_equal(a.max_tokens, 5); /* the larger of two: which one counts is the runtime's choice */
    assert_int_equal(tb_rewrite_completions(&a), 12);
    a = facts("{\"Max_Tokens\":5,\"prompt\":[1,2,3],\"m\\u0061x_completion_tokens\":6}");
    assert_int_equal(a.max_tokens, 6);
    assert_int_equal(tb_rewrite_completions(&a), 1);
    a = facts("{\"n\":99999999999}");
    assert_true(tb_rewrite_completions(&a) == UINT64_MAX);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char text[80];

        snprintf(text, sizeof(text), "{\"max_tokens\":%s}", bad[i]);
        a = facts(text);
        assert_true(a.max_given && a.max_bad);
    }
    a = facts("{\"a\":1}{\"max_tokens\":5}");
    assert_false(a.complete);
}

static void test_kinds(void **unused)
{
    assert_int_equal(tb_api_of("/v1/chat/completions?x", 20), TB_API_CHAT);
    assert_int_equal(tb_api_of("/v1/completions", 15), TB_API_COMPLETION);
    assert_int_equal(tb_api_of("/v1/models", 10), TB_API_OTHER);
    assert_int_equal(tb_api_of("x", 1), TB_API_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage_is_asked_for),
        cmocka_unit_test(test_what_is_left_alone),
        cmocka_unit_test(test_a_limit_is_set_where_none_is_given),
        cmocka_unit_test(test_facts),
        cmocka_unit_test(test_kinds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
