/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/usage/usage_parser.h"

static struct tb_tokens sum(const char *text, bool events, size_t step, bool complete)
{
    struct tb_usage_parser m = {.events = events};
    struct tb_tokens t;

    for (size_t i = 0, len = strlen(text); i < len; i += step)
        tb_usage_parser_feed(&m, text + i, MIN(step, len - i));
    tb_usage_parser_result(&m, complete, 400, &t);
    tb_usage_parser_clear(&m);
    return t;
}

static void test_bodies_in_any_pieces(void **unused)
{
    static const char text[] =
        "{\"choices\":[{\"message\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}}],"
        "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"prompt_tokens_details\":"
        "{\"cached_tokens\":3}},\"x\":{\"usage\":{\"prompt_tokens\":100}}}";

    for (size_t step = 1; step < sizeof(text); step++) {
        struct tb_tokens t = sum(text, false, step, true);

        assert_true(t.known && !t.estimated);
        assert_int_equal(t.prompt, 5);
        assert_int_equal(t.completion, 2);
        assert_int_equal(t.cached, 3);
        assert_int_equal(t.ours, 0);
    }
    assert_false(sum(text, false, 10, false).estimated); /* the client left, but the count is whole */
}

static void test_lying_numbers_do_no_harm(void **unused)
{
    struct tb_tokens t =
        sum("{\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1e9,\"prompt_tokens_details\":"
            "{\"cached_tokens\":77}}}",
            false, 7, true);

    assert_int_equal(t.prompt, 0);
    assert_int_equal(t.completion, 0);
    assert_int_equal(t.cached, 0); /* no more than the prompt */
    t = sum("{\"usage\":{\"prompt_tokens\":123456789012345678901234567890}}", false, 7, true);
    assert_int_equal(t.prompt, 0);
}

static void test_events_are_counted_when_the_count_never_comes(void **unused)
{
    static const char text[] =
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
        ": ping\n\n"
        "data: {\"choices\":[{\"delta\":\ndata: "
        "{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}}]}\n\n"
        "data: {\"choices\":[{\"delta\":{\"content\":\"unfinished";

    for (size_t step = 1; step < sizeof(text); step++) {
        struct tb_tokens t = sum(text, true, step, false);

        assert_true(t.known && t.estimated);
        assert_int_equal(t.prompt, 100);
        assert_int_equal(t.completion, 2);
        assert_int_equal(t.ours, 102);
    }
}

static void filter(const char *text, size_t step, struct tb_buf *out)
{
    struct tb_usage_parser m = {.events = true, .strip = true};

    for (size_t i = 0, len = strlen(text); i < len; i += step)
        assert_int_equal(tb_usage_parser_filter(&m, text + i, MIN(step, len - i), out), 0);
    assert_int_equal(tb_usage_parser_flush(&m, out), 0);
    tb_usage_parser_clear(&m);
}

static void test_only_the_usage_event_is_taken_out(void **unused)
{
    static const char *const kept[] = {
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n", /* continuous */
        "data: {\"choices\":[],\"usage\":null}\n\n",
        "data: {\"choices\":[]}\n\n",
        "data: [DONE]\n\n",
        ": ping\n\n",
        "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt"};
    static const char usage[] = "data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n";

    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        for (size_t step = 1; step < 80; step++) {
            _cleanup_buf_ struct tb_buf out = {0}, in = {0};

            assert_int_equal(tb_buf_puts(&in, usage), 0);
            assert_int_equal(tb_buf_append(&in, kept[i], strlen(kept[i]) + 1), 0);
            filter(in.data, step, &out);
            assert_int_equal(out.len, strlen(kept[i]));
            assert_memory_equal(out.data, kept[i], out.len);
        }
}

/* An event of any size passes, and only so much of it is held. */
static void test_long_events_pass(void **unused)
{
    struct tb_usage_parser m = {.events = true, .strip = true};
    _cleanup_buf_ struct tb_buf out = {0};
    static char piece[4096];

    memset(piece, 'x', sizeof(piece));
    assert_int_equal(tb_usage_parser_filter(&m, "data: {\"choices\":[],\"usage\":{},\"x\":\"", 37, &out), 0);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(tb_usage_parser_filter(&m, piece, sizeof(piece), &out), 0);
        assert_true(m.held.len <= TB_USAGE_PARSER_HOLD_MAX);
    }
    assert_int_equal(tb_usage_parser_filter(&m, "\"}\n\n", 4, &out), 0);
    assert_int_equal(out.len, 37 + 100 * sizeof(piece) + 4);
    tb_usage_parser_clear(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bodies_in_any_pieces),
        cmocka_unit_test(test_lying_numbers_do_no_harm),
        cmocka_unit_test(test_events_are_counted_when_the_count_never_comes),
        cmocka_unit_test(test_only_the_usage_event_is_taken_out),
        cmocka_unit_test(test_long_events_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
