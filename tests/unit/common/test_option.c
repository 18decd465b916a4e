/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <getopt.h>
#include <string.h>
#include <cmocka.h>

#include "common/option.h"

struct target {
    const char *name, *dir;
    struct tb_option_list sets;
    bool on, help;
    unsigned bits;
    uint64_t n, size, even, every;
};

static int set_even(const struct tb_option *o, void *var, char *value, char err[static TB_OPTION_ERR_MAX])
{
    if (strcmp(value, "huge") == 0)
        return snprintf(err, TB_OPTION_ERR_MAX, "is more than this machine has"), -ERANGE;
    if (strlen(value) != 1 || (*value - '0') % 2)
        return -EINVAL;
    *(uint64_t *)var = (uint64_t)(*value - '0');
    return 0;
}

#define TB_OPTION_TARGET struct target
static const struct tb_option rows[] = {
    TB_OPTION('n', "name", "NAME", TB_OPTION_STRING, name, "what it is called"),
    TB_OPTION(0, "dir", "DIR", TB_OPTION_DIR_NAME, dir, "where"),
    TB_OPTION_HEADING_ROW("Numbers:"),
    TB_OPTION(0, "count", "N", TB_OPTION_UINT, n, "how many", .min = 1, .max = 10),
    TB_OPTION('s', "size", "SIZE", TB_OPTION_SIZE, size, "how much", .min = 1024, .max = 4 << 20),
    TB_OPTION(0, "even", "N", TB_OPTION_CALL, even, "a number without a half", .set = set_even,
              .want = "an even digit"),
    TB_OPTION('e', "every", "S", TB_OPTION_UINT, every, "how often", .optional = true, .min = 1, .max = 9),
    TB_OPTION(0, "set", "A=B", TB_OPTION_LIST, sets, "values", .setting = "x.sets"),
    TB_OPTION('f', "flag", NULL, TB_OPTION_FLAG, on, "switch"),
    TB_OPTION(0, "more", NULL, TB_OPTION_BITS, bits, NULL, .max = 4),
    TB_OPTION('h', "help", NULL, TB_OPTION_STOP, help, "this"),
    TB_OPTION_END,
};

static int parse(struct tb_options *o, struct target *t, const char *const *words)
{
    static char storage[16][64]; /* values point into it */
    char *argv[16] = {NULL};
    int argc = 0;

    *o = (struct tb_options){.rows = rows};
    *t = (struct target){0};
    for (; words[argc]; argc++)
        argv[argc] = strcpy(storage[argc], words[argc]);
    return tb_options_parse(o, t, argc, argv);
}

static void test_each_kind_takes_its_value(void **state)
{
    struct tb_options o;
    struct target t;

    assert_int_equal(
        parse(&o, &t,
              (const char *[]){"x", "-n", "me", "--dir=/a//", "--count", "10", "-s1M", "--even=4",
                               "--set=a=1", "--set", "b=2", "-f", "--more", "rest", NULL}),
        0);
    assert_string_equal(t.name, "me");
    assert_string_equal(t.dir, "/a");
    assert_true(t.n == 10 && t.size == 1 << 20 && t.even == 4 && t.on && t.bits == 4);
    assert_int_equal(t.sets.n, 2);
    assert_string_equal(t.sets.v[1], "b=2");
    assert_true(tb_options_given(&o, "size") && !tb_options_given(&o, "help"));
    tb_option_list_clear(&t.sets);
}

static void test_a_bad_value_is_named(void **state)
{
    static const struct {
        const char *word, *says;
    } cases[] = {
        {"--count=0", "--count: a number from 1 to 10, not '0'"},
        {"--count=", "--count: a number from 1 to 10, not ''"},
        {"--size=5M", "--size: a size from 1K to 4M, not '5M'"},
        {"--even=3", "--even: an even digit, not '3'"},
        {"--even=huge", "--even: is more than this machine has"},
        {"--flag=S3CRET", "option '--flag' takes no value"},
        {"--unknown=S3CRET", "unknown option '--unknown'"},
        {"--name", "option '--name' needs a value"},
        {"-n", "option '-n' needs a value"},
        {"-z", "unknown option '-z'"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct tb_options o;
        struct target t;

        assert_int_not_equal(parse(&o, &t, (const char *[]){"x", cases[i].word, NULL}), 0);
        assert_string_equal(o.error, cases[i].says);
    }
}

static void test_nothing_is_read_after_help(void **state)
{
    struct tb_options o;
    struct target t;

    assert_int_equal(parse(&o, &t, (const char *[]){"x", "--help", "--count=0", NULL}), 0);
    assert_true(t.help);
}

static void test_a_row_is_set_from_elsewhere(void **state)
{
    struct tb_options o = {.rows = rows};
    struct target t = {0};
    char good[] = "7", bad[] = "70";

    assert_int_equal(tb_options_set(&o, &t, 3, "N_OF_X", good), 0);
    assert_int_equal(t.n, 7);
    assert_int_equal(tb_options_set(&o, &t, 3, "N_OF_X", bad), -EINVAL);
    assert_string_equal(o.error, "N_OF_X: a number from 1 to 10, not '70'");
    for (size_t i = 0; i < TB_OPTIONS_MAX; i++)
        assert_false(o.given[i]);
}

static void test_a_value_may_be_left_out(void **state)
{
    struct tb_options o;
    struct target t;

    assert_int_equal(parse(&o, &t, (const char *[]){"x", "--every", "-e", "word", NULL}), 0);
    assert_true(tb_options_given(&o, "every"));
    assert_int_equal(t.every, 0); /* as it was */
    assert_int_equal(optind, 3);  /* the word is none of its */
    assert_int_equal(parse(&o, &t, (const char *[]){"x", "--every=3", NULL}), 0);
    assert_int_equal(t.every, 3);
    assert_int_equal(parse(&o, &t, (const char *[]){"x", "-e4", NULL}), 0);
    assert_int_equal(t.every, 4);
    assert_int_equal(parse(&o, &t, (const char *[]){"x", "--every=0", NULL}), -EINVAL);
    assert_string_equal(o.error, "--every: a number from 1 to 9, not '0'");
    assert_int_equal(parse(&o, &t, (const char *[]){"x", "--every=", NULL}), -EINVAL);
}

static char *note(const struct tb_option *o)
{
    return o->setting ? strdup("[note]") : NULL;
}

static void test_help_shows_the_table(void **state)
{
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    tb_options_help(rows, f, note);
    fclose(f);
    assert_string_equal(text, "  -n, --name=NAME  what it is called\n"
                              "      --dir=DIR    where\n"
                              "\nNumbers:\n"
                              "      --count=N    how many\n"
                              "  -s, --size=SIZE  how much\n"
                              "      --even=N     a number without a half\n"
                              "  -e, --every[=S]  how often\n"
                              "      --set=A=B    values [note]\n"
                              "  -f, --flag       switch\n"
                              "  -h, --help       this\n");
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_kind_takes_its_value),  cmocka_unit_test(test_a_bad_value_is_named),
        cmocka_unit_test(test_nothing_is_read_after_help), cmocka_unit_test(test_a_row_is_set_from_elsewhere),
        cmocka_unit_test(test_a_value_may_be_left_out),    cmocka_unit_test(test_help_shows_the_table),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
