/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/usage/usage_parser.h"

#define LIKELY 100

static struct tb_tokens sum_of(struct tb_usage_request rq, const char *text, bool events, size_t step,
                               bool complete)
{
    struct tb_usage_parser m = {.request = rq, .events = events};
    struct tb_tokens t;

    m.request.prompt_likely = LIKELY;
    for (size_t i = 0, len = strlen(text); i < len; i += step)
        tb_usage_parser_feed(&m, text + i, MIN(step, len - i));
    if (complete)
        assert_int_equal(tb_usage_parser_end(&m, NULL), 0);
    tb_usage_parser_result(&m, complete, &t);
    tb_usage_parser_clear(&m);
    return t;
}

struct row {
    struct tb_usage_request rq;
    const char *text;
    uint64_t prompt, completion, cached, ours;
    bool estimated, cut; /* cut: the client left */
};

static void check_rows(const struct row *rows, size_t n, bool events)
{
    for (size_t i = 0; i < n; i++)
        for (size_t step = 1; step < 90; step += 11) {
            struct tb_tokens t = sum_of(rows[i].rq, rows[i].text, events, step, !rows[i].cut);

            if (t.prompt != rows[i].prompt || t.completion != rows[i].completion ||
                t.estimated != rows[i].estimated)
                print_error("row %zu step %zu: %llu %llu %llu %d\n", i, step, (unsigned long long)t.prompt,
                            (unsigned long long)t.completion, (unsigned long long)t.ours, t.estimated);
            assert_true(t.known);
            assert_int_equal(t.prompt, rows[i].prompt);
            assert_int_equal(t.completion, rows[i].completion);
            assert_int_equal(t.cached, rows[i].cached);
            assert_int_equal(t.ours, rows[i].ours);
            assert_int_equal(t.estimated, rows[i].estimated);
        }
}

#define CHOICE(i, text, why)                                                                                 \
    "{\"index\":" #i ",\"message\":{\"content\":\"" text "\"},\"finish_reason\":\"" why "\"}"

static void test_bodies(void **unused)
{
    static const struct tb_usage_request chat = {.api = TB_API_CHAT}, completion = {.api = TB_API_COMPLETION};
    static const struct row rows[] = {
        {chat,
         "{\"choices\":[{\"message\":{\"content\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":9}\"}}],\"usage\":{"
         "\"prompt_tokens\":5,"
         "\"completion_tokens\":2,\"prompt_tokens_details\":{\"cached_tokens\":3}},\"x\":{\"usage\":{"
         "\"prompt_tokens\":100}}}",
         5, 2, 3, 0, false, false},
        /* A whole count is whole, though the client has left. */
        {chat, "{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}", 5, 2, 0, 0, false,
         true},
        /* One half of it. */
        {chat, "{\"choices\":[" CHOICE(0, "abcdefgh", "stop") "],\"usage\":{\"prompt_tokens\":5}}", 5, 2, 0,
         2, true, false},
        {chat, "{\"choices\":[" CHOICE(0, "abcdefgh", "stop") "],\"usage\":{\"completion_tokens\":7}}",
         LIKELY, 7, 0, LIKELY, true, false},
        {chat,
         "{\"choices\":[" CHOICE(0, "abcdefgh",
                                 "stop") "],\"usage\":{\"total_tokens\":9,\"completion_tokens\":7}}",
         2, 7, 0, 0, false, false},
        {chat,
         "{\"choices\":[" CHOICE(0, "abcdefgh",
                                 "stop") "],\"usage\":{\"total_tokens\":9,\"prompt_tokens\":7}}",
         7, 2, 0, 0, false, false},
        {chat, "{\"choices\":[" CHOICE(0, "abcdefgh", "stop") "],\"usage\":null}", LIKELY, 2, 0, LIKELY + 2,
         true, false},
        {chat,
         "{\"choices\":[" CHOICE(0, "abcdefgh",
                                 "stop") "],\"usage\":{\"prompt_tokens\":-5,\"completion_tokens\":1e9}}",
         LIKELY, 2, 0, LIKELY + 2, true, false},
        {chat, "{\"choices\":[" CHOICE(0, "abcdefghij", "stop") "," CHOICE(1, "abcd", "stop") "]}", LIKELY, 4,
         0, LIKELY + 4, true, false},
        /* Reasoning that is said under two names was written once. */
        {chat,
         "{\"choices\":[{\"message\":{\"reasoning\":\"abcd\",\"reasoning_content\":\"abcd\",\"content\":"
         "\"abcd\"}}]}",
         LIKELY, 2, 0, LIKELY + 2, true, false},
        /* llama-server: the usage of one choice; of one prompt. */
        {{.api = TB_API_CHAT, .choices = 3, .max_tokens = 40},
         "{\"choices\":[" CHOICE(0, "abcd", "length") "," CHOICE(1, "a", "length") "," CHOICE(
             2, "ab", "length") "],"
                                "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":40},\"timings\":{"
                                "\"prompt_n\":1,\"cache_n\":4,\"predicted_n\":40}}",
         5,
         120,
         4,
         0,
         false,
         false},
        {{.api = TB_API_CHAT, .choices = 2},
         "{\"choices\":[" CHOICE(0, "abcdabcd", "stop") "," CHOICE(
             1, "abcd", "stop") "],"
                                "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":40},\"timings\":{"
                                "\"prompt_n\":1,\"cache_n\":4,\"predicted_n\":40}}",
         5,
         60,
         4,
         0,
         true,
         false},
        {{.api = TB_API_COMPLETION, .prompts = 2, .text = 30, .first_text = 10},
         "{\"choices\":[{\"text\":\"ab\",\"finish_reason\":\"length\"},{\"text\":\"ab\",\"finish_reason\":"
         "\"length\"}],"
         "\"usage\":{\"prompt_tokens\":6,\"completion_tokens\":4},\"timings\":{\"prompt_n\":6,\"cache_n\":0,"
         "\"predicted_n\":4}}",
         18,
         8,
         0,
         0,
         true,
         false},
        /* Others say the sum. */
        {{.api = TB_API_CHAT, .choices = 2, .max_tokens = 40},
         "{\"choices\":[" CHOICE(0, "a", "length") "," CHOICE(
             1, "a", "length") "],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":80}}",
         5,
         80,
         0,
         0,
         false,
         false},
        /* llama-server's own API: one answer, and a list of them. */
        {completion,
         "{\"content\":\"abcdefgh\",\"timings\":{\"cache_n\":1,\"prompt_n\":2,\"predicted_n\":3}}", 3, 3, 1,
         0, false, false},
        {{.api = TB_API_COMPLETION, .prompts = 2},
         "[{\"index\":0,\"content\":\"a\",\"timings\":{\"cache_n\":0,\"prompt_n\":2,\"predicted_n\":3}},"
         "{\"index\":1,\"content\":\"b\",\"timings\":{\"cache_n\":0,\"prompt_n\":4,\"predicted_n\":5}}]",
         6,
         8,
         0,
         0,
         false,
         false},
        {{.api = TB_API_EMBEDDING},
         "{\"data\":[{\"embedding\":[0.5,1]}],\"usage\":{\"prompt_tokens\":5,\"total_tokens\":5}}",
         5,
         0,
         0,
         0,
         false,
         false},
        {{.api = TB_API_EMBEDDING},
         "{\"results\":[],\"usage\":{\"total_tokens\":6}}",
         6,
         0,
         0,
         0,
         false,
         false},
        {{.api = TB_API_EMBEDDING},
         "{\"data\":[{\"embedding\":[0.5,1]}]}",
         LIKELY,
         0,
         0,
         LIKELY,
         true,
         false},
        {{.api = TB_API_OTHER}, "{\"x\":[],\"usage\":{\"total_tokens\":6}}", 6, 0, 0, 0, false, false},
        {{.api = TB_API_RESPONSE},
         "{\"output\":[{\"content\":[{\"text\":\"x\"}]}],\"usage\":{\"input_tokens\":9,\"output_tokens\":3,"
         "\"input_tokens_details\":{\"cached_tokens\":2}}}",
         9,
         3,
         2,
         0,
         false,
         false},
        {{.api = TB_API_MESSAGE},
         "{\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"usage\":{\"input_tokens\":9,\"cache_read_input_"
         "tokens\":2,"
         "\"cache_creation_input_tokens\":4,\"output_tokens\":3}}",
         15,
         3,
         2,
         0,
         false,
         false},
        {{.api = TB_API_MESSAGE},
         "{\"content\":[{\"type\":\"text\",\"text\":\"abcdefgh\"}],\"usage\":{\"input_tokens\":9}}",
         9,
         2,
         0,
         2,
         true,
         false},
        {{.api = TB_API_AUDIO}, "{\"text\":\"abcdefgh\"}", LIKELY, 2, 0, LIKELY + 2, true, false},
    };

    check_rows(rows, ARRAY_SIZE(rows), false);
}

/* What infers nothing costs nothing. */
static void test_answers_without_tokens(void **unused)
{
    assert_false(
        sum_of((struct tb_usage_request){.api = TB_API_CHAT}, "{\"anything\":\"else\"}", false, 7, true)
            .known);
    assert_false(
        sum_of((struct tb_usage_request){.api = TB_API_OTHER}, "{\"text\":\"abcd\"}", false, 7, true).known);
    assert_false(
        sum_of((struct tb_usage_request){.api = TB_API_CHAT}, "data: {\"error\":{}}\n\n", true, 7, true)
            .known);
}

#define DELTA(i, text) "data: {\"choices\":[{\"index\":" #i ",\"delta\":{\"content\":\"" text "\"}}]}\n\n"
#define SIXTY "abcdefghijabcdefghijabcdefghijabcdefghijabcdefghijabcdefghij"

static void test_events(void **unused)
{
    static const struct tb_usage_request chat = {.api = TB_API_CHAT}, message = {.api = TB_API_MESSAGE};
    static const struct row rows[] = {
        {chat,
         DELTA(0,
               "a") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\ndata: "
                    "[DONE]\n\n",
         5, 1, 0, 0, false, false},
        {chat,
         DELTA(0, "a") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\n\n",
         5, 1, 0, 0, false, true},
        /* No empty line ends it. */
        {chat, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}", 5, 3, 0, 0,
         false, false},
        /* Events that were delivered, when the count never comes: one each, and never less than the text. */
        {chat,
         "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n" DELTA(
             0, "a") ": ping\n\n"
                     "data: {\"choices\":[{\"delta\":\ndata: "
                     "{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}}]}\n\n"
                     "data: {\"choices\":[{\"delta\":{\"content\":\"unfinished",
         LIKELY, 2, 0, LIKELY + 2, true, true},
        {chat, DELTA(0, SIXTY SIXTY SIXTY SIXTY) DELTA(0, SIXTY SIXTY SIXTY SIXTY), LIKELY, 120, 0,
         LIKELY + 120, true, true},
        /* Every way to end a line, a mark, comments, other fields. */
        {chat,
         "\xef\xbb\xbf"
         "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\rid: "
         "1\r:x\rdata:{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\r",
         LIKELY, 2, 0, LIKELY + 2, true, true},
        {chat, "event: x\r\ndata: {\"choices\":[{\"delta\":\r\ndata: {\"content\":\"a\"}}]}\r\n\r\n", LIKELY,
         1, 0, LIKELY + 1, true, true},
        /* Growing usage in each event, of two choices. */
        {{.api = TB_API_CHAT, .choices = 2},
         "data: "
         "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":5,"
         "\"completion_tokens\":2}}\n\n"
         "data: "
         "{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":5,"
         "\"completion_tokens\":3}}\n\n"
         "data: "
         "{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":5,"
         "\"completion_tokens\":4}}\n\n",
         5,
         7,
         0,
         0,
         true,
         true},
        /* llama-server tells each choice's usage in an event of its own. */
        {{.api = TB_API_CHAT, .choices = 2},
         DELTA(0, "a") DELTA(1, "b") "data: "
                                     "{\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}"
                                     "}\n\n" DELTA(1, "c") "data: "
                                                           "{\"choices\":[],\"usage\":{\"prompt_tokens\":5,"
                                                           "\"completion_tokens\":4}}\n\ndata: [DONE]\n\n",
         5,
         7,
         0,
         0,
         false,
         false},
        {chat,
         "data: "
         "{\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"timings\":{\"prompt_n\":2,\"cache_n\":1,"
         "\"predicted_n\":9}}\n\n",
         3, 9, 1, 0, true, true},
        {chat,
         "data: "
         "{\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"timings\":{\"prompt_n\":2,\"cache_n\":1,"
         "\"predicted_n\":9}}\n\n",
         3, 9, 1, 0, false, false},
        {message,
         "event: message_start\ndata: "
         "{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"output_tokens\":1}}}\n\n"
         "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n"
         "data: "
         "{\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"input_tokens\":"
         "50,\"output_tokens\":12}}\n\n",
         50, 12, 0, 0, false, false},
        {message,
         "data: "
         "{\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":50,\"cache_read_input_"
         "tokens\":7,\"output_tokens\":1}}}\n\n"
         "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"" SIXTY
         "\"}}\n\n",
         57, 15, 7, 14, true, true},
        {message,
         "data: {\"type\":\"content_block_delta\",\"delta\":{\"type\":\"text_delta\",\"text\":\"hi\"}}\n\n"
         "data: {\"type\":\"message_delta\",\"delta\":{},\"usage\":{\"output_tokens\":12}}\n\n",
         LIKELY, 12, 0, LIKELY, true, false},
        {{.api = TB_API_RESPONSE},
         "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\ndata: "
         "{\"type\":\"response.output_text.delta\",\"delta\":\"abcdabcd\"}\n\n"
         "data: {\"type\":\"response.output_text.done\",\"text\":\"abcdabcd\"}\n\n",
         LIKELY,
         2,
         0,
         LIKELY + 2,
         true,
         true},
        {{.api = TB_API_RESPONSE},
         "data: {\"type\":\"response.output_text.delta\",\"delta\":\"hi\"}\n\n"
         "data: "
         "{\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}}"
         "\n\n",
         3,
         2,
         0,
         0,
         false,
         true},
    };

    check_rows(rows, ARRAY_SIZE(rows), true);
}

static void filter(const char *text, size_t step, struct tb_buf *out)
{
    struct tb_usage_parser m = {.request.api = TB_API_CHAT, .events = true, .strip = true};

    for (size_t i = 0, len = strlen(text); i < len; i += step)
        assert_int_equal(tb_usage_parser_filter(&m, text + i, MIN(step, len - i), out), 0);
    assert_int_equal(tb_usage_parser_end(&m, out), 0);
    assert_int_equal(tb_buf_append(out, "", 1), 0);
    tb_usage_parser_clear(&m);
}

static void test_only_the_usage_event_is_taken_out(void **unused)
{
    static const char *const kept[] = {
        "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n", /* continuous */
        "data: {\"choices\":[]}\n\n",
        "data: [DONE]\n\n",
        ": ping\r\r",
        "data: {\"usage\":{\"prompt_tokens\":1}}\n\n",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\rdata: [DONE]\r\r",
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\ndata: "
        "{\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\r\n\r\n",
        "data: {\"choices\":[],\"usage\":{\"prompt"};
    static const char *const usage[] = {"data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\r\n\r\n",
                                        "data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\r\r",
                                        "data: {\"choices\": [ ],\"usage\":{\"prompt_tokens\":1}}\n\n"};

    for (size_t u = 0; u < ARRAY_SIZE(usage); u++)
        for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
            for (size_t step = 1; step < 80; step++) {
                _cleanup_buf_ struct tb_buf out = {0}, in = {0};

                assert_int_equal(tb_buf_puts(&in, usage[u]), 0);
                assert_int_equal(tb_buf_append(&in, kept[i], strlen(kept[i]) + 1), 0);
                filter(in.data, step, &out);
                assert_string_equal(out.data, kept[i]);
            }
}

/* OpenAI's rule: who asks for usage is told in each other event that it is not there. */
static void test_null_usage_goes_with_what_it_tells_of(void **unused)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\n\n",
         "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"},
        {"data: {\"usage\" : null , \"choices\":[]}\r\n\r\n", "data: { \"choices\":[]}\r\n\r\n"},
        {"id: 4\rdata:{\"id\":\"c\", \"usage\": null, \"choices\":[]}\r\r",
         "id: 4\rdata:{\"id\":\"c\", \"choices\":[]}\r\r"},
        {"data: {\"\\u0075sage\":null}\n\n", "data: {}\n\n"},
        /* the one that is kept for what the usage event has */
        {"data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n"
         "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1},\"timings\":{}}\n\n",
         "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}],\"timings\":{}}\n\n"},
        {"data: {\"choices\":[],\"usage\":null}", "data: {\"choices\":[]}"}, /* no line ends it */
        /* elsewhere it is the runtime's own */
        {"data: {\"choices\":[{\"usage\":null}],\"x\":{\"usage\":null}}\n\n",
         "data: {\"choices\":[{\"usage\":null}],\"x\":{\"usage\":null}}\n\n"},
        {"data: {\"usage\":\"null\"}\n\n", "data: {\"usage\":\"null\"}\n\n"},
        {"data: {\"choices\":[],\"usage\":null", "data: {\"choices\":[],\"usage\":null"}, /* broke off */
        /* the mark is the stream's */
        {"\xef\xbb\xbf"
         "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n\ndata: [DONE]\n\n",
         "\xef\xbb\xbf"
         "data: [DONE]\n\n"},
        {"\xef\xbb\xbf"
         "data: {\"usage\":null}\n\n",
         "\xef\xbb\xbf"
         "data: {}\n\n"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        for (size_t step = 1; step < 150; step++) {
            _cleanup_buf_ struct tb_buf out = {0};

            filter(rows[i].in, step, &out);
            assert_string_equal(out.data, rows[i].out);
        }
}

/* What else a runtime says there would have come in the event before, had we not asked. */
static void test_other_members_of_the_usage_event_survive(void **unused)
{
    static const char first[] = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    static const char in[] =
        "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}],\"id\":\"c\"}\n\n"
        "data: "
        "{\"choices\":[],\"id\":\"c\",\"usage\":{\"completion_tokens\":3},\"timings\":{\"predicted_n\":3}, "
        "\"x\" : [1]}\n\ndata: [DONE]\n\n";
    static const char want[] = "data: "
                               "{\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}],\"id\":\"c\","
                               "\"timings\":{\"predicted_n\":3}, \"x\" : [1]}\n\n"
                               "data: [DONE]\n\n";

    for (size_t step = 1; step < 200; step++) {
        _cleanup_buf_ struct tb_buf out = {0}, all = {0};

        assert_int_equal(tb_buf_puts(&all, first), 0);
        assert_int_equal(tb_buf_append(&all, in, sizeof(in)), 0);
        filter(all.data, step, &out);
        assert_memory_equal(out.data, first, strlen(first));
        assert_string_equal(out.data + strlen(first), want);
    }
}

static bool at_line(const char *text, bool strip)
{
    struct tb_usage_parser m = {.request.api = TB_API_CHAT, .events = true, .strip = strip};
    _cleanup_buf_ struct tb_buf out = {0};
    bool at;

    if (strip)
        assert_int_equal(tb_usage_parser_filter(&m, text, strlen(text), &out), 0);
    else
        tb_usage_parser_feed(&m, text, strlen(text));
    at = tb_usage_parser_at_line(&m);
    tb_usage_parser_clear(&m);
    return at;
}

/* Where a comment line cannot be taken for anything else, nor end an event early. */
static void test_where_a_comment_may_stand(void **unused)
{
    static const struct {
        const char *text;
        bool plain, strip; /* strip: what is not whole is still held */
    } rows[] = {
        {"", true, true},
        {"data: {}\n\n", true, true},
        {"data: {}\n", true, true},
        {"data: {", false, true},
        {": pin", false, true},
        {"data: {}\r", false, false},
        {"data: {}\r\n", true, true},
        {"data: {}\r\r", false, false},
        {"\xef\xbb", false, true},
        {"\xef\xbb\xbf", true, true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        assert_int_equal(at_line(rows[i].text, false), rows[i].plain);
        assert_int_equal(at_line(rows[i].text, true), rows[i].strip);
    }
}

/* An event of any size passes, and only so much of it is held. */
static void test_long_events_pass(void **unused)
{
    struct tb_usage_parser m = {.request.api = TB_API_CHAT, .events = true, .strip = true};
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
        cmocka_unit_test(test_bodies),
        cmocka_unit_test(test_answers_without_tokens),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_only_the_usage_event_is_taken_out),
        cmocka_unit_test(test_null_usage_goes_with_what_it_tells_of),
        cmocka_unit_test(test_other_members_of_the_usage_event_survive),
        cmocka_unit_test(test_where_a_comment_may_stand),
        cmocka_unit_test(test_long_events_pass),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
