/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "load/cmdline.h"

#define WORDS 8

static void test_splits(void **state)
{
    static const struct {
        const char *line, *words[WORDS];
    } cases[] = {
        {"server", {"server"}},
        {"  /usr/bin/server \t -m {model}\n", {"/usr/bin/server", "-m", "{model}"}},
        {"a 'b c' \"d e\"", {"a", "b c", "d e"}},
        {"a ''  \"\" b", {"a", "", "", "b"}},
        {"a x'y z'w", {"a", "xy zw"}},
        {"a \\'b\\ c\\\\", {"a", "'b c\\"}},
        {"a 'b\\' c", {"a", "b\\", "c"}},
        {"a \"b\\\"c\\\\d\\e\"", {"a", "b\"c\\d\\e"}},
        {"a \"it's\" 'say \"x\"'", {"a", "it's", "say \"x\""}},
        {"a $HOME `id` ; | & > *.c #x", {"a", "$HOME", "`id`", ";", "|", "&", ">", "*.c"}},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char err[TB_CMDLINE_ERR_MAX], **argv = NULL;
        size_t n = 0;

        assert_int_equal(tb_cmdline_split(cases[i].line, strlen(cases[i].line), &argv, err), 0);
        for (; n < WORDS && cases[i].words[n]; n++)
            assert_string_equal(argv[n], cases[i].words[n]);
        if (n < WORDS)
            assert_null(argv[n]);
        tb_argv_free(argv);
    }
}

static void test_refuses(void **state)
{
    static const struct {
        const char *line;
        size_t len;
        const char *why;
    } cases[] = {
        {"", 0, "names no program"},
        {" \t\n", 3, "names no program"},
        {"'' x", 4, "names no program"},
        {"a 'b", 4, "' quote is not closed"},
        {"a \"b", 4, "\" quote is not closed"},
        {"a \"b\\", 5, "quote is not closed"},
        {"a \"b\\\"", 6, "quote is not closed"},
        {"a b\\", 4, "ends with a backslash"},
        {"a\0b", 3, "NUL"},
        {"a\\\0b", 4, "NUL"},
        {"a '\0'", 5, "NUL"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char err[TB_CMDLINE_ERR_MAX] = "", **argv = NULL;

        assert_int_equal(tb_cmdline_split(cases[i].line, cases[i].len, &argv, err), -EINVAL);
        assert_non_null(strstr(err, cases[i].why));
        assert_null(argv);
    }
}

static void test_has_limits(void **state)
{
    char *line = malloc(TB_CMDLINE_MAX + 1), err[TB_CMDLINE_ERR_MAX], **argv;

    assert_non_null(line);
    memset(line, 'a', TB_CMDLINE_MAX + 1);
    assert_int_equal(tb_cmdline_split(line, TB_CMDLINE_MAX + 1, &argv, err), -EINVAL);
    assert_int_equal(tb_cmdline_split(line, TB_CMDLINE_MAX, &argv, err), 0);
    tb_argv_free(argv);
    for (size_t i = 1; i < TB_CMDLINE_MAX; i += 2)
        line[i] = ' ';
    assert_int_equal(tb_cmdline_split(line, 2 * TB_CMDLINE_ARGS_MAX + 2, &argv, err), -EINVAL);
    assert_non_null(strstr(err, "words"));
    assert_int_equal(tb_cmdline_split(line, 2 * TB_CMDLINE_ARGS_MAX, &argv, err), 0);
    assert_null(argv[TB_CMDLINE_ARGS_MAX]);
    tb_argv_free(argv);
    free(line);
}

static void test_substitutes(void **state)
{
    static const char line[] =
        "server --model={model} {model}{model} {Model} {mode} '{model'} {s3}{model}{s3";
    char err[TB_CMDLINE_ERR_MAX], **argv;

    assert_int_equal(tb_cmdline_split(line, strlen(line), &argv, err), 0);
    /* What comes in is not looked at again. */
    assert_int_equal(tb_cmdline_substitute(argv, "/m/{model} x"), 0);
    assert_string_equal(argv[0], "server");
    assert_string_equal(argv[1], "--model=/m/{model} x");
    assert_string_equal(argv[2], "/m/{model} x/m/{model} x");
    assert_string_equal(argv[3], "{Model}");
    assert_string_equal(argv[4], "{mode}");
    assert_string_equal(argv[5], "/m/{model} x");
    assert_string_equal(argv[6], "/m/{model} x/m/{model} x{s3");
    assert_null(argv[7]);
    assert_false(tb_cmdline_has(argv, TB_CMDLINE_S3));
    assert_true(tb_cmdline_has(argv, TB_CMDLINE_MODEL));
    assert_false(tb_cmdline_has(NULL, TB_CMDLINE_MODEL));
    tb_argv_free(argv);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_splits),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_has_limits),
        cmocka_unit_test(test_substitutes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
