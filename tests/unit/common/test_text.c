/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/json.h"
#include "common/macros.h"
#include "common/text.h"

static void test_words_of_the_shell(void **state)
{
    static const char *const cases[][2] = {{"plain-1.0/x:y@z=%", "plain-1.0/x:y@z=%"},
                                           {"", "''"},
                                           {"two words", "'two words'"},
                                           {"it's", "'it'\\''s'"},
                                           {"$(x) `y` \"z\" \\ *", "'$(x) `y` \"z\" \\ *'"},
                                           {"~me", "'~me'"}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *word = tb_text_shell_word(cases[i][0]);

        assert_string_equal(word, cases[i][1]);
    }
}

static void test_control_characters_are_replaced(void **state)
{
    static const struct {
        const char *in, *out;
    } cases[] = {
        {"", ""},
        {"plain, with spaces", "plain, with spaces"},
        {"Grüße, 模型 \xf0\x9f\x98\x80", "Grüße, 模型 \xf0\x9f\x98\x80"},
        {"a\x1b[31mb", "a?[31mb"},
        {"a\nb\tc\rd\x7f", "a?b?c?d?"},
        {"csi \xc2\x9b"
         "31m, osc \xc2\x9d",
         "csi ?31m, osc ?"}, /* C1 in UTF-8 */
        {"csi \x9b"
         "31m",
         "csi ?31m"}, /* C1 as a byte */
        {"\xff\xc0\x80", "???"},
        {"cut \xe6\xa8", "cut ??"},
        {"\xed\xa0\x80", "???"}, /* a surrogate */
        {"abc\xe2\x80\xae"
         "def",
         "abc?def"},
        {"x\xe2\x80\xa8y\xe2\x81\xa6z", "x?y?z"},
        {"nbsp \xc2\xa0 stays", "nbsp \xc2\xa0 stays"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char copy[64];

        strcpy(copy, cases[i].in);
        assert_ptr_equal(tb_text_plain(copy), copy);
        assert_string_equal(copy, cases[i].out);
    }
}

static void test_json_stays_the_same_document(void **state)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject(), *again = NULL;
    _cleanup_free_ char *text = NULL, *plain = NULL;

    cJSON_AddStringToObject(doc, "status",
                            "a\x1b[31m\xc2\x9b"
                            "2J\x7f\xe2\x80\xae\n Grüße");
    cJSON_AddNumberToObject(doc, "\xc2\x9dname", 1);
    text = cJSON_Print(doc);
    assert_non_null(strstr(text, "\xc2\x9b"));
    plain = tb_text_plain_json(text);
    for (const char *p = plain; *p; p++)
        assert_true(*p == '\n' || *p == '\t' || ((unsigned char)*p >= ' ' && *p != 0x7f));
    assert_null(strstr(plain, "\xc2\x9b"));
    assert_null(strstr(plain, "\xe2\x80\xae"));
    assert_non_null(strstr(plain, "\\u009b"));
    assert_non_null(strstr(plain, "Grüße"));
    again = cJSON_Parse(plain);
    assert_true(cJSON_Compare(doc, again, true));
}

static void test_json_of_bytes_that_are_not_utf8(void **state)
{
    _cleanup_free_ char *plain = tb_text_plain_json("{\"a\":\"\x9b"
                                                    "31m\"}");

    assert_string_equal(plain, "{\"a\":\"\\ufffd31m\"}");
}

static void test_what_was_cut_ends_with_a_whole_character(void **state)
{
    static const char *const cases[][2] = {{"", ""},
                                           {"plain", "plain"},
                                           {"Gr\xc3\xbc", "Gr\xc3\xbc"},
                                           {"Gr\xc3", "Gr"},
                                           {"\xe2\x82\xac", "\xe2\x82\xac"},
                                           {"a\xe2\x82", "a"},
                                           {"a\xe2", "a"},
                                           {"\xf0\x9f\x98", ""},
                                           {"\x82", ""}};

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        _cleanup_free_ char *text = strdup(cases[i][0]);

        assert_string_equal(tb_text_trim(text), cases[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control_characters_are_replaced),
        cmocka_unit_test(test_words_of_the_shell),
        cmocka_unit_test(test_json_stays_the_same_document),
        cmocka_unit_test(test_json_of_bytes_that_are_not_utf8),
        cmocka_unit_test(test_what_was_cut_ends_with_a_whole_character),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
