/* SPDX-License-Identifier: Apache-2.0 */
/* Request targets: one spelling for each path, or a refusal. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "common/macros.h"
#include "proxy/http/target.h"

#define RAW_MAX 256

static void check_normal(const char *raw, const char *want)
{
    struct tb_target_refusal why = {0};
    struct tb_target t, again;
    char text[TB_TARGET_ROOM(RAW_MAX)], twice[TB_TARGET_ROOM(RAW_MAX)];

    if (!tb_target_parse(raw, strlen(raw), text, &t, &why))
        fail_msg("%s: %s", raw, why.why);
    assert_string_equal(t.text, want);
    assert_int_equal(t.path_len, strcspn(want, "?"));
    /* What is normal stays as it is. */
    assert_true(tb_target_parse(text, strlen(text), twice, &again, &why));
    assert_string_equal(again.text, want);
}

static void check_refused(const char *raw, size_t len, int status)
{
    struct tb_target_refusal why = {0};
    struct tb_target t;
    char text[TB_TARGET_ROOM(RAW_MAX)];

    if (tb_target_parse(raw, len, text, &t, &why))
        fail_msg("%s is taken for %s", raw, t.text);
    assert_int_equal(why.status, status);
    assert_non_null(why.why);
}

static void test_one_spelling(void **unused)
{
    static const char *const pairs[][2] = {
        {"/", "/"},
        {"/v1/models", "/v1/models"},
        {"/v1/completion%73", "/v1/completions"},
        {"/%76%31/%63hat/completions?x=%73&y=../a//b", "/v1/chat/completions?x=%73&y=../a//b"},
        {"/v1/a%2Db%5fc%7e", "/v1/a-b_c~"},
        {"/v1/m%3adelete%40x%2bz", "/v1/m:delete@x+z"},
        {"/v1/a%3bb;c", "/v1/a%3Bb;c"},
        {"/v1/%20%c3%a9%25%3f%23", "/v1/%20%C3%A9%25%3F%23"},
        {"/v1/%2573", "/v1/%2573"},
        {"/v1/{x}\"<>^`|[]", "/v1/%7Bx%7D%22%3C%3E%5E%60%7C%5B%5D"},
        {"/v1/...", "/v1/..."},
        {"/v1/..x/.y", "/v1/..x/.y"},
        {"/v1/models/", "/v1/models/"},
        {"/v1/x?", "/v1/x?"},
        {"http://h/v1/models", "/v1/models"},
        {"HTTPS://h:8000/v1/x?y", "/v1/x?y"},
        {"http://[::1]:80/v1/x", "/v1/x"},
        {"http://h", "/"},
        {"http://h?q=1", "/?q=1"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
        check_normal(pairs[i][0], pairs[i][1]);
}

static void test_refusals(void **unused)
{
    static const char *const bad[] = {
        "",
        "v1",
        "x:80",
        "ftp://h/x",
        "http:///x",
        "http://u@h/x",
        "http://h:x/y",
        "http://[x/",
        "http://h:70000/",
        "http://a b/",
        "/v1/..",
        "/v1/../x",
        "/./x",
        "/v1/%2e%2e",
        "/v1/.%2E/",
        "/v1/%2f",
        "/v1/%2Fx",
        "/v1/%5c",
        "/v1/\\x",
        "/v1/%00",
        "/v1/%0a",
        "/v1/%7f",
        "/v1/%",
        "/v1/%4",
        "/v1/%zz",
        "/v1/x#y",
        "/v1/ x",
        "/v1/\x80",
        "/v1/x?\t",
        "/v1/%ff",
        "/v1/%c0%af",
        "/v1/%c3",
        "/v1/%c3/x",
        "/v1/%e0%80%af",
        "/v1/%ed%a0%80",
        "/v1/%f4%90%80%80",
        "http://h/v1/%2e%2e/x",
        "/v1/x?\x7f",
    };
    static const char *const nothing[] = {"//", "//v1/x", "/v1//x", "/v1/x//", "http://h//v1/x"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        check_refused(bad[i], strlen(bad[i]), 400);
    for (size_t i = 0; i < ARRAY_SIZE(nothing); i++)
        check_refused(nothing[i], strlen(nothing[i]), 404);
    check_refused("/v1/\0x", 6, 400);
}

static void test_forms(void **unused)
{
    struct tb_target_refusal why;
    struct tb_target t;
    char text[TB_TARGET_ROOM(RAW_MAX)];

    assert_true(tb_target_parse("*", 1, text, &t, &why));
    assert_int_equal(t.form, TB_TARGET_ASTERISK);
    assert_string_equal(t.text, "*");
    assert_true(tb_target_parse("http://h:1/x", 12, text, &t, &why));
    assert_int_equal(t.form, TB_TARGET_ABSOLUTE);
    assert_int_equal(t.authority_len, 3);
    assert_memory_equal(t.authority, "h:1", 3);
    assert_true(tb_target_parse("/x", 2, text, &t, &why));
    assert_int_equal(t.form, TB_TARGET_ORIGIN);
    assert_null(t.authority);
    assert_false(tb_target_parse("h:443", 5, text, &t, &why));
    assert_int_equal(t.form, TB_TARGET_AUTHORITY);
}

static void test_authorities(void **unused)
{
    static const char *const good[] = {"", "h", "h:80", "h:", "1.2.3.4:8000", "[::1]", "[::1]:80", "a-b.c_d"};
    static const char *const bad[] = {":80", "h:x",  "h:80:80", "u@h",     "h/x",
                                      "h x", "[::1", "[::1]x",  "h:99999", "a\"b"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        assert_true(tb_authority_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(tb_authority_valid(bad[i], strlen(bad[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_spelling),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_authorities),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
