/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/envfile.h"

/* The value of A that counts; NULL: none. As systemd 252 and 257 have it; the scenario test_settings.py compares
 * with a real one. */
static const struct {
    const char *text, *value;
} reads[] = {
    {"A=1", "1"},
    {"A=1\n", "1"},
    {" \t A \t=\t 1 2 \t\n", "1 2"},
    {"A=1\r\nB=2\r\n", "1"},
    {"#A=1\n;A=2\n", NULL},
    {"A=1 # no comment\n", "1 # no comment"},
    {"A=1\nA=2\n", "2"},
    {"A=1\nA=\n", ""},
    {"A=\"1 2 \"\n", "1 2 "},
    {"A='1 \"2\" \\n'\n", "1 \"2\" \\n"},
    {"A=\"a\\\"b\\$c\\`d\\\\e\\nf\"\n", "a\"b$c`d\\e\\nf"},
    {"A=\"1\n2\"\n", "1\n2"},
    {"A=\"1\\\n2\"\n", "12"},
    {"A=1\\\n2\n", "12"},
    {"A=1 \\\n  2\n", "1   2"},
    {"A=a\\ \n", "a "},
    {"A=a\\\\b\n", "a\\b"},
    {"A=a\"b\"\n", "a\"b\""},
    {"A=\"a\"b\n", "ab"},
    {"A=\"a\" 'b' c\n", "abc"},
    {"A=\"a", "a"},
    {"A='a\nB=2\n", "a\nB=2\n"},
    {"A=$B\n", "$B"},
    {"A==1\n", "=1"},
    {"A\nA=1\n", "1"},
    {"# c\\\nA=1\n", "1"},
    {"export A=1\n", NULL},
    {"A-B=1\nA=2\n", "2"},
    {"\xef\xbb\xbf"
     "A=1\n",
     NULL},
    {"A=a\x01\n", NULL},
    {"A=a\tb\n", "a\tb"},
    {"A", NULL},
    {"A=", ""},
    {"", NULL},
};

static void test_values_are_systemds(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(reads); i++) {
        _cleanup_envfile_ struct tb_envfile e = {0};
        const struct tb_envfile_entry *found;

        assert_int_equal(tb_envfile_parse(reads[i].text, strlen(reads[i].text), &e), 0);
        found = tb_envfile_find(&e, "A");
        if (!found != !reads[i].value || (found && strcmp(found->value, reads[i].value) != 0))
            fail_msg("%s: %s", reads[i].text, found ? found->value : "(none)");
    }
}

static const struct {
    const char *text;
    enum tb_finding_level level;
    unsigned line;
    const char *name, *said; /* NULL: nothing is wrong */
} checks[] = {
    {"# a\nTB_A=1\n\n  TB_B = \"2 3\"\r\nHF_HOME=/x\n", 0, 0, NULL, NULL},
    {"TB_A=a\\\nb\n", 0, 0, NULL, NULL},
    {"TB_A=\"a\"'b'\n", 0, 0, NULL, NULL},
    {"\nTB_A 1\n", TB_FINDING_ERROR, 2, "", "begins with TB_A has no '='"},
    {"TB_A=1\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n", TB_FINDING_ERROR, 2, "", "the line is not NAME=value"},
    {"export TB_A=1\n", TB_FINDING_ERROR, 1, "TB_A", "\"export\""},
    {"export\tTB_A=1\n", TB_FINDING_ERROR, 1, "TB_A", "\"export\""},
    {"TB-A=1\n", TB_FINDING_ERROR, 1, "", "not the name of a setting"},
    {"TB_A B=1\n", TB_FINDING_ERROR, 1, "", "what begins with TB_A is not the name"},
    {"\xef\xbb\xbfTB_A=1\n", TB_FINDING_ERROR, 1, "TB_A", "byte order mark"},
    {"TB_A=\"1\nTB_B=2\n", TB_FINDING_ERROR, 1, "TB_A", "a quote is not closed"},
    {"TB_A='1\n", TB_FINDING_ERROR, 1, "TB_A", "a quote is not closed"},
    {"TB_A=\"/bin/x\" -m {model}\n", TB_FINDING_ERROR, 1, "TB_A", "behind the closing quote"},
    {"TB_A=\x02\n", TB_FINDING_ERROR, 1, "TB_A", "control character"},
    {"TB_B=1\nTB_A=\xff\n", TB_FINDING_ERROR, 2, "", "not UTF-8"},
    {"TB_A=1\n# c\\\nTB_B=2\n", TB_FINDING_WARNING, 2, "", "comment ends with a backslash"},
    {"TB_A=1\nTB_B=1\nTB_A=2\n", TB_FINDING_WARNING, 1, "TB_A", "line 3 sets it again"},
    {"TB_PROVIDER_KEY=a\nTB_PROVIDER_KEY=b\n", TB_FINDING_ERROR, 2, "TB_PROVIDER_KEY",
     "line 1 pins the provider's key"},
    {"TB_PROVIDER_KEY=a\nTB_PROVIDER_KEY=\n", TB_FINDING_ERROR, 2, "TB_PROVIDER_KEY",
     "line 1 pins the provider's key"},
    {"TB_PROVIDER_KEY=a\nTB_PROVIDER_KEY=a\n", TB_FINDING_WARNING, 1, "TB_PROVIDER_KEY",
     "line 2 sets it again"},
    {"TB_A=1\nTB_A=\n", TB_FINDING_WARNING, 1, "TB_A", "line 2 sets it again"},
};

static void test_the_form_is_checked(void **state)
{
    for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
        _cleanup_envfile_ struct tb_envfile e = {0};
        _cleanup_findings_ struct tb_findings f = {0};

        assert_int_equal(tb_envfile_parse(checks[i].text, strlen(checks[i].text), &e), 0);
        tb_envfile_check(&e, &f);
        if (f.n != (checks[i].said ? 1 : 0))
            fail_msg("%s: %zu findings, first %s", checks[i].text, f.n, f.n ? f.v[0].text : "");
        if (!checks[i].said)
            continue;
        assert_int_equal(f.v[0].level, checks[i].level);
        assert_int_equal(f.v[0].line, checks[i].line);
        assert_string_equal(f.v[0].name, checks[i].name);
        if (!strstr(f.v[0].text, checks[i].said) || !strchr(f.v[0].text, ';'))
            fail_msg("%s: %s", checks[i].text, f.v[0].text);
    }
}

static void test_a_nul_byte_is_found(void **state)
{
    static const char text[] = "T\0B\0_\0A\0=\0";
    _cleanup_envfile_ struct tb_envfile e = {0};
    _cleanup_findings_ struct tb_findings f = {0};

    assert_int_equal(tb_envfile_parse(text, sizeof(text) - 1, &e), 0);
    tb_envfile_check(&e, &f);
    assert_int_equal(f.errors, 1);
    assert_non_null(strstr(f.v[0].text, "UTF-16"));
}

static void test_no_finding_repeats_a_value(void **state)
{
    static const char *const texts[] = {
        "TB_A=\"SECRET",       "SECRET KEY\n",      "export SECRET KEY=SECRET\n", "SECRET-KEY=SECRET\n",
        "TB_A=\"a\" SECRET\n", "TB_A=SECRET\x01\n", "TB_A=SECRET\nTB_A=1\n"};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        _cleanup_envfile_ struct tb_envfile e = {0};
        _cleanup_findings_ struct tb_findings f = {0};

        assert_int_equal(tb_envfile_parse(texts[i], strlen(texts[i]), &e), 0);
        tb_envfile_check(&e, &f);
        assert_int_equal(f.n, 1);
        assert_null(strstr(f.v[0].text, "SECRET"));
    }
}

static void test_the_environment_has_each_name_once(void **state)
{
    static const char text[] = "A=1\nB=2\nA=3\nbad name=1\nC\n";
    _cleanup_envfile_ struct tb_envfile e = {0};
    char **env;

    assert_int_equal(tb_envfile_parse(text, strlen(text), &e), 0);
    env = tb_envfile_environ(&e);
    assert_non_null(env);
    assert_string_equal(env[0], "B=2");
    assert_string_equal(env[1], "A=3");
    assert_null(env[2]);
    tb_envfile_free_environ(env);
}

static void test_findings_go_through_text_and_back(void **state)
{
    static const char text[] =
        "error: TB_A: a: b; c\nwarning: credential x: y\nsomething else\nerror: TB_A: a: b; c\nnote: : z";
    _cleanup_findings_ struct tb_findings f = {0}, again = {0};
    _cleanup_free_ char *out = NULL;
    size_t len;
    FILE *stream = open_memstream(&out, &len);

    tb_findings_read(&f, text, strlen(text));
    assert_int_equal(f.n, 3);
    assert_int_equal(f.errors, 1);
    assert_int_equal(f.warnings, 1);
    assert_string_equal(f.v[0].text, "a: b; c");
    assert_string_equal(f.v[1].name, "credential x");
    tb_findings_write(&f, stream);
    fclose(stream);
    tb_findings_read(&again, out, len);
    assert_int_equal(again.n, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values_are_systemds),
        cmocka_unit_test(test_the_form_is_checked),
        cmocka_unit_test(test_a_nul_byte_is_found),
        cmocka_unit_test(test_no_finding_repeats_a_value),
        cmocka_unit_test(test_the_environment_has_each_name_once),
        cmocka_unit_test(test_findings_go_through_text_and_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
