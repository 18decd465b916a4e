/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "proxy/usage/rewrite.h"

/* Feeds text in pieces of `step` bytes; out: what the runtime would get. Returns what tb_rewrite_feed() does at last. */
static int feed(struct tb_rewrite *a, const char *text, size_t step, uint64_t cap, struct tb_buf *out)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < len;) {
        size_t n = MIN(step, len - i), used;
        int r = tb_rewrite_feed(a, text + i, n, out, &used);

        if (r < 0)
            return r;
        assert_true(r == 1 || used == n);
        if (r == 1)
            assert_int_equal(tb_rewrite_close(a, a->budgeted ? cap : 0, out), 0);
        i += used;
    }
    return 0;
}

static void check_key(enum tb_api api, bool budgeted, const char *in, uint64_t cap, const char *want)
{
    for (size_t step = 1; step < 40; step += 3) {
        struct tb_rewrite a = {.api = api, .budgeted = budgeted};
        _cleanup_buf_ struct tb_buf out = {0};
        size_t n;

        assert_int_equal(feed(&a, in, step, cap, &out), 0);
        assert_int_equal(tb_rewrite_end(&a, false, &out), 0);
        assert_int_equal(tb_buf_append(&out, "", 1), 0);
        assert_string_equal(out.data, want);
        n = --out.len;
        if (!tb_rewrite_may_change(&a)) {
            assert_string_equal(out.data, in);
            continue;
        }
        assert_int_equal(tb_rewrite_end(&a, true, &out), 0);
        assert_int_equal(out.len, strlen(in) + TB_REWRITE_GROWTH);
        for (; n < out.len; n++)
            assert_int_equal(out.data[n], ' ');
    }
}

static void check(enum tb_api api, const char *in, const char *want)
{
    check_key(api, false, in, 0, want);
}

#define ASKED "\"stream_options\":{\"include_usage\":true}"

static void test_usage_is_asked_for(void **unused)
{
    check(TB_API_CHAT, "{\"stream\": true}", "{\"stream\": true," ASKED "}");
    check(TB_API_CHAT, "\xef\xbb\xbf{\"stream\": true}", "\xef\xbb\xbf{\"stream\": true," ASKED "}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{}}\n", "{\"stream\":true," ASKED "}\n");
    check(TB_API_COMPLETION, "{\"stream_options\":{\"a\":[{}]},\"stream\":true}",
          "{\"stream_options\":{\"a\":[{}],\"include_usage\":true},\"stream\":true}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{\"include_usage\":false}}",
          "{\"stream\":true," ASKED "}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":{\"include_usage\": null , \"a\":1}}",
          "{\"stream\":true,\"stream_options\":{\"include_usage\":true , \"a\":1}}");
    check(TB_API_CHAT, "{\"stream\":true," ASKED "}", "{\"stream\":true," ASKED "}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":null}", "{\"stream\":true," ASKED "}");
    check(TB_API_CHAT, "{\"stream_options\" : null,\"stream\":true}", "{\"stream\":true," ASKED "}");
    check(TB_API_CHAT, "{\"stream_options\":null}", "{\"stream_options\":null}");
    /* vLLM takes {} without a stream, but nothing that is not empty. */
    check(TB_API_CHAT, "{\"stream_options\":{}}", "{\"stream_options\":{}}");
    check(TB_API_CHAT, "{\"stream\":false,\"stream_options\": { } , \"a\":1}",
          "{\"stream\":false, \"a\":1,\"stream_options\":{}}");
    check(TB_API_CHAT, "{\"stream_options\":{ },\"stream\":true}", "{\"stream\":true," ASKED "}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":[]}", "{\"stream\":true,\"stream_options\":[]}");
    check(TB_API_CHAT, "{\"stream\":true,\"stream_options\":[{\"include_usage\":0}]}",
          "{\"stream\":true,\"stream_options\":[{\"include_usage\":0}]}");
    check(TB_API_CHAT, "{\"stream_options\":[1,{\"a\":{}}],\"stream\":true}",
          "{\"stream_options\":[1,{\"a\":{}}],\"stream\":true}");
    check(TB_API_CHAT, "{ \"a\" : 1 , \"stream_options\" : null }", "{ \"a\" : 1  ,\"stream_options\":null}");
}

/* What pydantic takes for true streams, and what it takes for false does not ask for the usage. */
static void test_the_ways_to_say_true(void **unused)
{
    static const char *const yes[] = {"true",    "1",      "1.0",   "\"true\"", "\"1\"",
                                      "\"yes\"", "\"On\"", "\"y\"", "\"T\""};
    static const char *const no[] = {"false", "0", "null", "\"off\"", "\"no\"", "\"0\""};
    char in[120], want[160];

    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        snprintf(in, sizeof(in), "{\"stream\":%s}", yes[i]);
        snprintf(want, sizeof(want), "{\"stream\":%s," ASKED "}", yes[i]);
        check(TB_API_CHAT, in, want);
        snprintf(in, sizeof(in), "{\"stream\":true,\"stream_options\":{\"include_usage\":%s}}", yes[i]);
        check(TB_API_CHAT, in, in);
    }
    for (size_t i = 0; i < ARRAY_SIZE(no); i++) {
        snprintf(in, sizeof(in), "{\"stream\":%s}", no[i]);
        check(TB_API_CHAT, in, in);
        snprintf(in, sizeof(in), "{\"stream\":true,\"stream_options\":{\"include_usage\":%s}}", no[i]);
        check(TB_API_CHAT, in, "{\"stream\":true," ASKED "}");
    }
}

static void test_what_is_left_alone(void **unused)
{
    static const char *const same[] = {"{}",
                                       "{\"stream\":false}",
                                       "{\"Stream\":true}",
                                       "{\"x\":{\"stream\":true}}",
                                       "[{\"stream\":true}]",
                                       "null",
                                       "{\"stream\":true",
                                       "{]",
                                       "{\"a\" \"b\"}",
                                       "{\"a\":1 \"b\"}",
                                       "{\"a\":1,}",
                                       "{\"stream\":true,\"x\":{\"a\",1}}",
                                       "\"{\"",
                                       "{\"stream\":\"maybe\"}",
                                       "{\"stream\":2}",
                                       "{\"stream_options\":7}",
                                       "{\"stream_options\":\" null\"}",
                                       "{\"stream\":false,\"max_tokens\":null}"};

    for (size_t i = 0; i < ARRAY_SIZE(same); i++)
        check(TB_API_CHAT, same[i], same[i]);
    check(TB_API_RESPONSE, "{\"stream\":true}", "{\"stream\":true}");
    check(TB_API_MESSAGE, "{\"stream\":true,\"stream_options\":null}",
          "{\"stream\":true,\"stream_options\":null}");
}

static void test_a_limit_is_set(void **unused)
{
    const struct {
        enum tb_api api;
        const char *in;
        uint64_t cap;
        const char *want;
    } rows[] = {
        {TB_API_CHAT, "{}", 7, "{\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"stream\":true}", UINT64_MAX,
         "{\"stream\":true," ASKED ",\"max_tokens\":18446744073709551615}"},
        {TB_API_RESPONSE, "{\"a\":1}", 7, "{\"a\":1,\"max_output_tokens\":7}"},
        {TB_API_MESSAGE, "{\"a\":1}", 7, "{\"a\":1,\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"max_tokens\":null,\"a\":1}", 7, "{\"a\":1,\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"a\":1 , \"max_tokens\" : null , \"b\":[2]}", 7,
         "{\"a\":1 , \"b\":[2],\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"max_tokens\":null,\"max_completion_tokens\":null}", 7, "{\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"max_completion_tokens\":900}", 7, "{\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"n_predict\":5}", 7, "{\"n_predict\":5,\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"n_predict\":9}", 7, "{\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"n_predict\":-1}", 7, "{\"max_tokens\":7}"},
        {TB_API_CHAT, "{\"MAX_TOKENS\":1}", 7, "{\"MAX_TOKENS\":1,\"max_tokens\":7}"},
        {TB_API_COMPLETION, "{\"max_tokens\":0}", 7, "{\"max_tokens\":1}"},
        /* Without a cap all says what it said; to every runtime, what is in quotes too. */
        {TB_API_CHAT, "{\"max_tokens\":null,\"a\":1}", 0, "{\"a\":1,\"max_tokens\":null}"},
        {TB_API_CHAT, "{\"m\\u0061x_tokens\":\"10_0\"}", 0, "{\"max_tokens\":100}"},
        {TB_API_CHAT, "{\"max_tokens\":\" -1 \",\"n_predict\":\"7\"}", 9,
         "{\"n_predict\":7,\"max_tokens\":9}"},
        {TB_API_CHAT, "{\"max_tokens\":-1,\"n_predict\":1e2}", 0, "{\"max_tokens\":-1,\"n_predict\":1e2}"},
        {TB_API_EMBEDDING, "{\"max_tokens\":null,\"a\":1}", 0, "{\"max_tokens\":null,\"a\":1}"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        check_key(rows[i].api, true, rows[i].in, rows[i].cap, rows[i].want);
    check(TB_API_CHAT, "{\"max_tokens\":null,\"a\":1}", "{\"max_tokens\":null,\"a\":1}");
}

/* No number of blanks between the tokens hides a member. */
static void test_blanks_hide_nothing(void **unused)
{
    char blanks[2001], in[12000];

    memset(blanks, ' ', sizeof(blanks) - 1);
    blanks[sizeof(blanks) - 1] = '\0';
    for (int at = 0; at < 4; at++) {
        struct tb_rewrite a = {.api = TB_API_CHAT, .budgeted = true};
        _cleanup_buf_ struct tb_buf out = {0};
        _cleanup_json_ cJSON *doc = NULL;

        snprintf(in, sizeof(in),
                 "{\"a\":1,%s\"max_tokens\"%s:%snull%s,\"stream\":true,\"stream_options\"%s:null}",
                 at == 0 ? blanks : "", at == 1 ? blanks : "", at == 2 ? blanks : "", at == 3 ? blanks : "",
                 at == 1 ? blanks : "");
        assert_int_equal(feed(&a, in, 100, 7, &out), 0);
        doc = cJSON_ParseWithLength(out.data, out.len);
        assert_non_null(doc);
        assert_int_equal(cJSON_GetArraySize(doc), 4);
        assert_int_equal(cJSON_GetObjectItemCaseSensitive(doc, "max_tokens")->valueint, 7);
        assert_true(cJSON_IsObject(cJSON_GetObjectItemCaseSensitive(doc, "stream_options")));
    }
}

static void test_repeated_members_stop(void **unused)
{
    static const char *const twice[] = {
        "{\"stream\":true,\"stream\":false}",
        "{\"max_tokens\":1,\"b\":2,\"max_tokens\":1}",
        "{\"max_tokens\":1,\"m\\u0061x_tokens\":1}",
        "{\"stream_options\":{\"include_usage\":0},\"stream_options\":{\"include_usage\":0}}",
        "{\"stream_options\":null,\"stream_options\":{}}",
        "{\"stream_options\":{\"include_usage\":0,\"include\\u005fusage\":0}}",
        "{\"n\":1,\"n\":1}",
        "{\"messages\":[],\"messages\":[1]}",
    };

    for (size_t i = 0; i < ARRAY_SIZE(twice); i++)
        for (int budgeted = 0; budgeted < 2; budgeted++) {
            struct tb_rewrite a = {.api = TB_API_CHAT, .budgeted = budgeted};
            _cleanup_buf_ struct tb_buf out = {0};

            assert_int_equal(feed(&a, twice[i], 3, 0, &out), -EEXIST);
            assert_non_null(a.repeated);
            assert_non_null(strchr(twice[i], a.repeated[0]));
            assert_true(out.len <= strlen(twice[i]) + TB_REWRITE_GROWTH);
        }
    check(TB_API_CHAT, "{\"best\":1,\"best\":2}", "{\"best\":1,\"best\":2}"); /* decides nothing */
    check(TB_API_CHAT, "{\"max_output_tokens\":1,\"max_output_tokens\":2}",
          "{\"max_output_tokens\":1,\"max_output_tokens\":2}"); /* not a name of this API */
    check(TB_API_CHAT, "{\"x\":{\"stream\":1,\"stream\":2}}", "{\"x\":{\"stream\":1,\"stream\":2}}");
}

static struct tb_rewrite facts(enum tb_api api, const char *text, struct tb_request_size *size)
{
    struct tb_rewrite a = {.api = api, .budgeted = true};
    _cleanup_buf_ struct tb_buf out = {0};

    assert_int_equal(feed(&a, text, 5, 0, &out), 0);
    if (size)
        tb_rewrite_size(&a, UINT64_MAX, size);
    return a;
}

/* A request that continues a response costs what that had, too; of one that is not known nobody can say. */
static void test_a_response_that_is_continued(void **unused)
{
    static const char text[] = "{\"previous_response_id\":\"resp_1\",\"input\":\"abcdefgh\"}";
    struct tb_request_size alone, size;
    struct tb_rewrite a =
        facts(TB_API_RESPONSE, "{\"previous_response_id\":null,\"input\":\"abcdefgh\"}", &alone);

    assert_string_equal(a.previous, "");
    assert_true(alone.prompt_most < 200);
    a = facts(TB_API_RESPONSE, text, &size);
    assert_string_equal(a.previous, "resp_1");
    assert_true(size.prompt_most == UINT64_MAX);
    tb_rewrite_size(&a, 1000, &size);
    assert_int_equal(size.prompt_most, strlen(text) - 1 + TB_PROMPT_TEMPLATE + 1000);
    assert_int_equal(size.prompt_likely, 2 + 1000);
    a = facts(TB_API_RESPONSE, "{\"previous_response_id\":[\"r\"],\"input\":\"x\"}", &size);
    tb_rewrite_size(&a, 1000, &size);
    assert_true(size.prompt_most == UINT64_MAX);
    a = facts(TB_API_RESPONSE, "{\"previous_response_id\":\"r\",\"conversation\":\"c\",\"input\":\"x\"}",
              &size);
    tb_rewrite_size(&a, 1000, &size);
    assert_true(size.prompt_most == UINT64_MAX);
}

static void test_templates_of_each_conversation(void **unused)
{
    struct tb_request_size size;

    facts(TB_API_CHAT, "{\"messages\":[{\"content\":\"a\"}]}", &size);
    assert_int_equal(size.templates, 1);
    facts(TB_API_CHAT, "{\"messages\":[[{}],[{}],[{}]]}", &size);
    assert_int_equal(size.templates, 3);
    assert_false(size.conversation); /* of nothing */
    facts(TB_API_CHAT, "{\"messages\":[{\"content\":\"a\"}]}", &size);
    assert_true(size.conversation);
    facts(TB_API_COMPLETION, "{\"messages\":[{\"content\":\"a\"}]}", &size);
    assert_true(size.conversation);
    assert_int_equal(size.templates, 1);
    facts(TB_API_COMPLETION, "{\"prompt\":\"a\"}", &size);
    assert_false(size.conversation);
    assert_int_equal(size.templates, 0); /* a large template of conversations is none of its */
    facts(TB_API_RESPONSE, "{\"input\":\"a\"}", &size);
    assert_true(size.conversation);
    assert_true(size.usual);
    facts(TB_API_CHAT, "{\"temperature\":1,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", &size);
    assert_true(size.usual);
    facts(TB_API_CHAT, "{\"messages\":[{\"content\":\"a\",\"role\":\"syst\\u0065m\"}]}", &size);
    assert_false(size.usual); /* a template may add one only where there is none */
    facts(TB_API_CHAT, "{\"messages\":[[{\"role\":\"assistant\",\"content\":\"a\"}]]}", &size);
    assert_false(size.usual);
    facts(TB_API_CHAT, "{\"messages\":[{\"content\":\"a\"}],\"truncate_prompt_tokens\":1}", &size);
    assert_false(size.usual);
    facts(TB_API_CHAT, "{\"messages\":[[{}],[{}],[{}]]}", &size);
    assert_int_equal(size.prompt_most,
                     strlen("{\"messages\":[[{}],[{}],[{}]]}") - 1 + 3 * TB_PROMPT_TEMPLATE);
}

static void test_limits(void **unused)
{
    const struct {
        const char *body;
        uint64_t max;
        bool open, unclear;
    } rows[] = {
        {"{}", 0, true, false},
        {"{\"max_tokens\":5}", 5, false, false},
        {"{\"max_tokens\":100.0}", 100, false, false},
        {"{\"max_tokens\":1e2}", 100, false, false},
        {"{\"max_tokens\":5.7}", 5, false, false},
        {"{\"max_tokens\":\"100\"}", 100, false, false},
        {"{\"max_tokens\":\" +1_000.0 \"}", 1000, false, false},
        {"{\"max_tokens\":true}", 1, false, false},
        {"{\"max_tokens\":null}", 0, true, false},
        {"{\"max_tokens\":-1}", 0, true, false},
        {"{\"max_tokens\":0}", 1, true, false},
        {"{\"max_completion_tokens\":64,\"max_tokens\":null}", 64, false, false},
        {"{\"max_completion_tokens\":64,\"max_tokens\":100}", 100, false, false},
        {"{\"n_predict\":5}", 5, true, false},
        {"{\"max_tokens\":5,\"max_completion_tokens\":-1}", 5, true, false},
        {"{\"max_tokens\":5,\"n_predict\":-1}", 5, true, false},
        {"{\"max_tokens\":5,\"n_predict\":null}", 5, false, false},
        {"{\"Max_Tokens\":5}", 0, true, false},
        {"{\"max_output_tokens\":5}", 0, true, false},
        {"{\"max_tokens\":99999999999999999999}", INT64_MAX, false, false},
        {"{\"max_tokens\":99999999999999999999999999}", INT64_MAX, false, false},
        {"{\"max_tokens\":[5]}", 0, true, true},
        {"{\"max_tokens\":{}}", 0, true, true},
        {"{\"max_tokens\":\"five\"}", 0, true, true},
        {"{\"max_tokens\":\"1__0\"}", 0, true, true},
        {"{\"max_tokens\":\"1e2\"}", 0, true, true},
        {"{\"max_tokens\":NaN}", 0, true, true},
        {"{\"n\":\"x\"}", 0, true, true},
        {"{\"stream\":\"maybe\"}", 0, true, true},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct tb_request_size size;
        struct tb_rewrite a = facts(TB_API_CHAT, rows[i].body, &size);

        if (size.max_tokens != rows[i].max || size.open != rows[i].open || !a.unclear == rows[i].unclear)
            print_error("%s\n", rows[i].body);
        assert_true(a.complete);
        assert_int_equal(size.max_tokens, rows[i].max);
        assert_int_equal(size.open, rows[i].open);
        assert_int_equal(a.unclear != NULL, rows[i].unclear);
    }
}

static void test_counts(void **unused)
{
    struct tb_request_size size;

    facts(TB_API_COMPLETION, "{\"n\":3,\"best_of\":4,\"prompt\":[\"a\",\"b\",[1,2]]}", &size);
    assert_int_equal(size.prompts, 3);
    assert_int_equal(size.completions, 12);
    facts(TB_API_COMPLETION, "{\"prompt\":[1,2,3],\"n\":null,\"n_cmpl\":\"2\"}", &size);
    assert_int_equal(size.completions, 2);
    assert_int_equal(size.prompt_likely, 3);
    facts(TB_API_COMPLETION, "{\"n\":99999999999}", &size);
    assert_true(size.completions == UINT64_MAX);
    facts(TB_API_EMBEDDING, "{\"input\":[\"abcdefgh\",\"abcd\"],\"n\":5}", &size);
    assert_int_equal(size.completions, 0);
    assert_int_equal(size.prompt_likely, 3);
    facts(TB_API_EMBEDDING, "{\"query\":\"abcd\",\"documents\":[\"abcd\",\"abcd\",\"abcd\"]}", &size);
    assert_int_equal(size.prompt_likely, 6); /* the query with each */
    facts(TB_API_EMBEDDING,
          "{\"documents\":[\"abcd\",\"abcd\",\"abcd\"],\"query\":{\"content\":[{\"text\":\"abcd\"}]}}",
          &size);
    assert_int_equal(size.prompt_likely, 6);
    facts(TB_API_EMBEDDING, "{\"text_1\":[\"abcd\"],\"text_2\":[\"abcd\",\"abcd\",\"abcd\"]}", &size);
    assert_int_equal(size.prompt_likely, 1 + 3 + 3); /* four things in lists */
    facts(TB_API_EMBEDDING, "{\"query\":[1,2,3],\"items\":[[4],[5]]}", &size);
    assert_int_equal(size.prompt_likely, 3 + 2 + 3);
    facts(TB_API_EMBEDDING, "{\"text_1\":[\"abcd\",\"abcd\"],\"text_2\":[\"abcd\",\"abcd\"]}", &size);
    assert_int_equal(size.prompt_likely, 4);
    facts(TB_API_CHAT,
          "{\"max_tokens\":5,\"n\":2,\"messages\":[[{\"content\":\"a\"},{\"content\":\"b\"}],[{\"content\":"
          "\"c\"}],[{}]]}",
          &size);
    assert_int_equal(size.completions, 6); /* conversations times choices */
    facts(TB_API_CHAT, "{\"messages\":[{\"content\":[{\"text\":\"a\"},{\"text\":\"b\"}]},{}]}", &size);
    assert_int_equal(size.completions, 1);
    facts(TB_API_RESPONSE, "{\"previous_response_id\":\"r\",\"input\":\"x\"}", &size);
    assert_true(size.prompt_most == UINT64_MAX);
    facts(TB_API_CHAT, "{\"chat_template\":\"{% for i in range(9999) %}a{% endfor %}\"}", &size);
    assert_true(size.prompt_most == UINT64_MAX);
    facts(TB_API_CHAT, "{\"chat_template\":null}", &size);
    assert_true(size.prompt_most < 100);
    assert_false(facts(TB_API_CHAT, "{\"a\":1}{\"max_tokens\":5}", NULL).complete);
    assert_true(facts(TB_API_RESPONSE, "{\"background\":\"yes\"}", NULL).background);
}

/* Pictures and sound count by what they are, whatever their bytes. */
static void test_media(void **unused)
{
    static const char *const parts[] = {
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"data:image/png;base64,%s\"}}",
        "{\"type\":\"image_url\",\"image_url\":{\"url\":\"https://h/p.png\"}}",
        "{\"type\":\"input_image\",\"image_url\":\"data:image/png;base64,%s\"}",
        "{\"type\":\"image\",\"source\":{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"%s\"}}",
    };
    char base64[3001], body[4000], part[3500];
    struct tb_request_size size;

    memset(base64, 'A', sizeof(base64) - 1);
    base64[sizeof(base64) - 1] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
        snprintf(part, sizeof(part), parts[i], base64);
        snprintf(body, sizeof(body),
                 "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":"
                 "\"%.80s\"},%s]}]}",
                 base64, part);
        facts(TB_API_CHAT, body, &size);
        assert_int_equal(size.prompt_likely, 80 / 4 + TB_PROMPT_PICTURE);
    }
    snprintf(body, sizeof(body),
             "{\"messages\":[{\"content\":[{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"%s\","
             "\"format\":\"wav\"}}]}]}",
             base64);
    facts(TB_API_CHAT, body, &size);
    assert_int_equal(size.prompt_likely, TB_PROMPT_SOUND_SECOND);
    snprintf(body, sizeof(body),
             "{\"messages\":[{\"content\":[{\"type\":\"image_embeds\",\"image_embeds\":\"%s\"}]}]}", base64);
    facts(TB_API_CHAT, body, &size);
    assert_int_equal(size.prompt_likely, 1);
    snprintf(body, sizeof(body), "{\"messages\":[{\"content\":[{\"type\":\"video\",\"video\":\"%s\"}]}]}",
             base64);
    facts(TB_API_CHAT, body, &size);
    assert_int_equal(size.prompt_likely, TB_PROMPT_VIDEO);
}

/* What a runtime reads as text is text, by whatever name it comes. */
static void test_no_media(void **unused)
{
    static const struct {
        enum tb_api api;
        const char *body;
    } rows[] = {
        {TB_API_CHAT, "{\"tools\":[{\"function\":{\"parameters\":{\"image\":\"%s\"}}}]}"},
        {TB_API_CHAT, "{\"tools\":[{\"function\":{\"parameters\":{\"source\":{\"data\":\"%s\"}}}}]}"},
        {TB_API_CHAT,
         "{\"messages\":[{\"tool_calls\":[{\"function\":{\"arguments\":{\"file_url\":\"%s\"}}}]}]}"},
        {TB_API_CHAT, "{\"messages\":[{\"content\":{\"image\":\"%s\"}}]}"},
        {TB_API_MESSAGE, "{\"messages\":[{\"content\":[{\"input\":{\"image\":\"%s\"}}]}]}"},
        {TB_API_MESSAGE, "{\"tools\":[{\"input_schema\":{\"image\":\"%s\"}}]}"},
        {TB_API_RESPONSE, "{\"input\":[{\"output\":{\"image\":\"%s\"}}]}"},
        {TB_API_EMBEDDING, "{\"tools\":[{\"image\":\"%s\"}]}"},
    };
    char text[3001], body[4000];
    struct tb_request_size size;

    memset(text, 'A', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        snprintf(body, sizeof(body), rows[i].body, text);
        facts(rows[i].api, body, &size);
        assert_int_equal(size.prompt_likely, 3000 / 4);
        assert_true(size.prompt_most > 3000 && size.prompt_most < 4000);
    }
}

static void test_apis(void **unused)
{
    static const struct {
        const char *path;
        enum tb_api api;
    } rows[] = {
        {"/v1/chat/completions", TB_API_CHAT},
        {"/chat/completions", TB_API_CHAT},
        {"/v1/completions", TB_API_COMPLETION},
        {"/completion", TB_API_COMPLETION},
        {"/infill", TB_API_COMPLETION},
        {"/v1/embeddings", TB_API_EMBEDDING},
        {"/v1/rerank", TB_API_EMBEDDING},
        {"/v2/rerank", TB_API_EMBEDDING},
        {"/v1/score", TB_API_EMBEDDING},
        {"/v1/responses", TB_API_RESPONSE},
        {"/v1/messages", TB_API_MESSAGE},
        {"/v1/audio/transcriptions", TB_API_AUDIO},
        {"/v1/messages/count_tokens", TB_API_FREE},
        {"/v1/chat/completions/input_tokens", TB_API_FREE},
        {"/tokenize", TB_API_FREE},
        {"/v1/models", TB_API_FREE},
        {"/v1/responses/resp_1", TB_API_OTHER},
        {"/v1/COMPLETIONS", TB_API_OTHER},
        {"/v1/completions/", TB_API_COMPLETION},
        {"/v1/chat/completions/batch", TB_API_CHAT},
        {"/", TB_API_OTHER},
        {"/v1/xcompletions", TB_API_OTHER},
        {"/generate", TB_API_OTHER},
        {"x", TB_API_OTHER},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(tb_api_of(rows[i].path, strlen(rows[i].path)), rows[i].api);
    assert_int_equal(tb_api_of("/v1/chat/completions?x", 20), TB_API_CHAT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_usage_is_asked_for),
        cmocka_unit_test(test_the_ways_to_say_true),
        cmocka_unit_test(test_what_is_left_alone),
        cmocka_unit_test(test_a_limit_is_set),
        cmocka_unit_test(test_blanks_hide_nothing),
        cmocka_unit_test(test_repeated_members_stop),
        cmocka_unit_test(test_a_response_that_is_continued),
        cmocka_unit_test(test_templates_of_each_conversation),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_media),
        cmocka_unit_test(test_no_media),
        cmocka_unit_test(test_apis),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
