/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#include "common/json.h"
#include "provider/asset/asset.h"
#include "provider/cli/command.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/key_arg.h"
#include "provider/cli/table.h"

static char dir[] = "/tmp/tb-cli-XXXXXX";

static int make_dir(void **state)
{
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int remove_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

/* What the last calls wrote to fd (1 or 2), while it was redirected. */
struct capture {
    int fd, saved;
};

static struct capture capture_start(int fd)
{
    struct capture c = {.fd = fd, .saved = dup(fd)};
    int f = open("captured", O_RDWR | O_CREAT | O_TRUNC, 0600);

    fflush(NULL);
    dup2(f, fd);
    close(f);
    return c;
}

static char *capture_end(struct capture *c)
{
    char *text = NULL;

    fflush(NULL);
    dup2(c->saved, c->fd);
    close(c->saved);
    assert_int_equal(tb_read_file("captured", 65536, &text, NULL), 0);
    return text;
}

struct job {
    struct cli cli;
    const char *out, *account;
    uint64_t size;
    unsigned bits;
    struct tb_option_list sets;
};

#define TB_OPTION_TARGET struct job
static const struct tb_option options[] = {
    TB_OPTION('o', "out", "F", TB_OPTION_STRING, out, "where to"),
    TB_OPTION('s', "size", "SIZE", TB_OPTION_SIZE, size, "how much", .min = 1024, .max = 4 << 20),
    TB_OPTION(0, "account", "A", TB_OPTION_STRING, account, "whose", .setting = "azure.storage_account"),
    TB_OPTION(0, "bits", NULL, TB_OPTION_BITS, bits, "more", .max = 4),
    TB_OPTION(0, "set", "N=V", TB_OPTION_LIST, sets, "values"),
    CLI_GONE_ROW("old", "X", "say --out"),
    CLI_COMMON_ROWS,
};
static const struct tbpkg_command x = {
    .name = "x", .synopsis = "[OPTION]...", .about = "ABOUT\n", .options = options};

static int parse(struct job *j, const char *const *words)
{
    char *argv[16] = {NULL};
    int argc = 0;

    for (; words[argc]; argc++)
        argv[argc] = (char *)words[argc];
    return cli_parse(&j->cli, j, argc, argv, CLI_ANY_WORDS, NULL, NULL);
}

static void test_common_options_are_handled(void **state)
{
    struct job j = {.cli = {.command = &x}};
    struct capture cap;
    _cleanup_free_ char *text = NULL;

    assert_int_equal(parse(&j, (const char *[]){"x", "--json", "-q", "-o", "f", "rest", NULL}), CLI_OK);
    assert_true(j.cli.json && j.cli.quiet);
    assert_string_equal(j.out, "f");
    cap = capture_start(STDOUT_FILENO);
    assert_int_equal(parse(&j, (const char *[]){"x", "-h", NULL}), CLI_STOP);
    text = capture_end(&cap);
    assert_non_null(strstr(text, "Usage: tbpkg x [OPTION]...\nABOUT\n\n  -o, --out=F "));
    assert_non_null(strstr(text, "      --account=A      whose [$AZURE_STORAGE_ACCOUNT]\n"));
    assert_null(strstr(text, "--old"));
    assert_int_equal(j.cli.rc, CLI_OK);
}

static void test_values_are_of_their_kind(void **state)
{
    struct job j = {.cli = {.command = &x}};
    static const char *const bad[] = {"1023", "5M", "4X", ""};
    struct capture cap = capture_start(STDERR_FILENO);
    _cleanup_free_ char *text = NULL;
    int r =
        parse(&j, (const char *[]){"x", "-s", "1M", "--set", "a=1", "--bits", "--set=b=2", "--old=1", NULL});

    text = capture_end(&cap);
    assert_int_equal(r, CLI_OK);
    assert_int_equal(j.size, 1 << 20);
    assert_int_equal(j.bits, 4);
    assert_int_equal(j.sets.n, 2);
    assert_string_equal(j.sets.v[1], "b=2");
    assert_true(cli_given(&j.cli, "size") && !cli_given(&j.cli, "out"));
    assert_string_equal(text, "tbpkg: warning: --old is obsolete: say --out\n");
    tb_option_list_clear(&j.sets);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        _cleanup_free_ char *why = NULL;

        cap = capture_start(STDERR_FILENO);
        r = parse(&j, (const char *[]){"x", "--size", bad[i], NULL});
        why = capture_end(&cap);
        assert_int_equal(r, CLI_STOP);
        assert_non_null(strstr(why, "--size: a size from 1K to 4M, not '"));
    }
}

static void test_options_beat_environment_beats_file(void **state)
{
    static const char ini[] = "[azure]\nstorage_account = file\n";
    struct job j = {.cli = {.command = &x}};

    assert_int_equal(tb_write_file_atomic("t.ini", ini, sizeof(ini) - 1, 0600), 0);
    assert_int_equal(parse(&j, (const char *[]){"x", "--config", "t.ini", NULL}), CLI_OK);
    assert_string_equal(j.account, "file");
    setenv("AZURE_STORAGE_ACCOUNT", "environment", 1);
    assert_int_equal(parse(&j, (const char *[]){"x", "--config", "t.ini", NULL}), CLI_OK);
    assert_string_equal(j.account, "environment");
    assert_int_equal(parse(&j, (const char *[]){"x", "--account=option", NULL}), CLI_OK);
    assert_string_equal(j.account, "option");
    unsetenv("AZURE_STORAGE_ACCOUNT");
    setenv("HOME", "/nonexistent", 1);
    j = (struct job){.cli = {.command = &x}};
    assert_int_equal(parse(&j, (const char *[]){"x", NULL}), CLI_OK);
    assert_null(j.account);
}

static void test_usage_errors_repeat_no_value(void **state)
{
    static const char *const bad[][3] = {{"x", "--sas=S3CRET", NULL},
                                         {"x", "--json=S3CRET", NULL},
                                         {"x", "--out", NULL},
                                         {"x", "-o", NULL},
                                         {"x", "-z", NULL}};
    static const char *const says[] = {"'--sas'", "'--json' takes no value", "'--out' needs", "'-o' needs",
                                       "'-z'"};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct job j = {.cli = {.command = &x}};
        struct capture cap = capture_start(STDERR_FILENO);
        _cleanup_free_ char *text = NULL;
        int r = parse(&j, (const char *[]){bad[i][0], bad[i][1], NULL});

        text = capture_end(&cap);
        assert_int_equal(r, CLI_STOP);
        assert_int_equal(j.cli.rc, CLI_USAGE);
        assert_non_null(strstr(text, says[i]));
        assert_string_equal(cli_usage_of(), "x"); /* main() points to its help */
        assert_null(strstr(text, "S3CRET"));
    }
}

static void test_words_beside_the_options(void **state)
{
    static const char *const one[] = {"x", "f", NULL}, *const two[] = {"x", "f", "g", NULL};
    struct job j = {.cli = {.command = &x}};
    const char *in = NULL;
    struct capture cap;
    _cleanup_free_ char *text = NULL;

    assert_int_equal(cli_parse(&j.cli, &j, 2, (char **)one, CLI_ONE_INPUT, &in, NULL), CLI_OK);
    assert_string_equal(in, "f");
    cap = capture_start(STDERR_FILENO);
    assert_int_equal(cli_parse(&j.cli, &j, 2, (char **)one, CLI_ONE_INPUT, &in, NULL), CLI_STOP);
    in = NULL;
    assert_int_equal(cli_parse(&j.cli, &j, 3, (char **)two, CLI_ONE_INPUT, &in, NULL), CLI_STOP);
    assert_int_equal(cli_parse(&j.cli, &j, 2, (char **)one, CLI_NO_WORDS, NULL, NULL), CLI_STOP);
    assert_int_equal(j.cli.rc, CLI_USAGE);
    text = capture_end(&cap);
    assert_non_null(strstr(text, "the input is given twice: 'f' and 'f'"));
    assert_non_null(strstr(text, "unexpected argument 'g'"));
    assert_non_null(strstr(text, "unexpected argument 'f'"));
}

static void test_an_error_is_one_plain_line(void **state)
{
    struct capture cap = capture_start(STDERR_FILENO);
    _cleanup_free_ char *text = NULL;

    assert_int_equal(tbpkg_fail("a\nb\x1b[31m", "is bad", "mend it"), CLI_FAILED);
    tbpkg_fail_errno("f", -ENOSPC);
    text = capture_end(&cap);
    assert_string_equal(text,
                        "tbpkg: a?b?[31m: is bad; mend it\n"
                        "tbpkg: f: No space left on device; free some space or choose another directory\n");
}

static void test_key_hex_leaves_argv(void **state)
{
    _cleanup_key_arg_ struct cli_key_arg k = {0};
    struct cli c = {.command = &x};
    char err[TB_OPTION_ERR_MAX];
    struct tb_key key;
    char argv[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eFF",
         zero[sizeof(argv)] = {0};
    struct capture cap = capture_start(STDERR_FILENO);
    _cleanup_free_ char *text = NULL;

    assert_int_equal(cli_key_arg_hex(NULL, &k, argv, err), 0);
    text = capture_end(&cap);
    assert_memory_equal(argv, zero, sizeof(argv));
    assert_non_null(strstr(text, "warning"));
    assert_null(strstr(text, "0001"));
    assert_int_equal(cli_key_arg_read(&c, &k, &key), CLI_OK);
    assert_int_equal(key.b[1], 1);
    assert_int_equal(key.b[31], 0xff);
}

static void test_the_key_file_wins_over_the_environment(void **state)
{
    struct cli_key_arg k = {0};
    struct cli c = {.command = &x};
    struct tb_key key;
    char hex[TB_KEY_HEX_CHARS + 1];

    memset(hex, 'a', TB_KEY_HEX_CHARS);
    assert_int_equal(tb_write_file_atomic("env.key", hex, TB_KEY_HEX_CHARS, 0600), 0);
    memset(hex, 'b', TB_KEY_HEX_CHARS);
    assert_int_equal(tb_write_file_atomic("opt.key", hex, TB_KEY_HEX_CHARS, 0600), 0);
    assert_false(cli_key_arg_given(&k));
    setenv("TBPKG_KEY_FILE", "env.key", 1);
    assert_true(cli_key_arg_given(&k));
    assert_int_equal(cli_key_arg_read(&c, &k, &key), CLI_OK);
    assert_int_equal(key.b[0], 0xaa);
    k.file = "opt.key";
    assert_int_equal(cli_key_arg_read(&c, &k, &key), CLI_OK);
    assert_int_equal(key.b[0], 0xbb);
    unsetenv("TBPKG_KEY_FILE");
}

static void test_standard_input_is_given_out_once(void **state)
{
    struct cli c = {.command = &x};
    struct cli_key_arg in = {.file = "-"}, none = {0};
    struct capture cap = capture_start(STDERR_FILENO);
    int r[] = {cli_check_inputs(&c, "-", "m", &in),    cli_check_inputs(&c, "f", "-", &in),
               cli_check_inputs(&c, "-", NULL, &none), cli_check_inputs(&c, NULL, "-", &none),
               cli_check_inputs(&c, "f", NULL, &in),   cli_check_inputs(&c, "-", "m", &none),
               cli_check_inputs(&c, NULL, NULL, NULL)};
    const int want[] = {CLI_USAGE, CLI_USAGE, CLI_USAGE, CLI_USAGE, CLI_OK, CLI_OK, CLI_OK};

    free(capture_end(&cap));
    assert_memory_equal(r, want, sizeof(r));
}

/* In a child: register a file and a directory, be killed by sig; both must be gone and the status 130. */
static void test_an_interrupt_removes_temporary_files(void **state)
{
    int status;
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid == 0) {
        struct tb_newfile f;
        int null = open("/dev/null", O_WRONLY);

        dup2(null, STDERR_FILENO);
        cli_signals_init();
        umask(022);
        if (mkdir("tmpdir", 0700) < 0 || cli_temp_add("tmpdir") < 0 ||
            cli_newfile_open(&f, "tmpdir/f", 0666) < 0)
            _exit(1);
        cli_signals_block();
        raise(SIGTERM); /* held back */
        if (access("tmpdir", F_OK) < 0)
            _exit(2);
        cli_signals_unblock();
        _exit(3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), CLI_INTERRUPTED);
    assert_int_equal(access("tmpdir", F_OK), -1);
}

/* More columns than any command has today. */
static void test_a_table_has_as_many_columns_as_its_caller(void **state)
{
    struct table_column columns[100];
    char titles[ARRAY_SIZE(columns)][8];
    _cleanup_json_ cJSON *rows = cJSON_CreateArray();
    cJSON *row = cJSON_CreateObject();
    struct capture c;
    _cleanup_free_ char *table = NULL, *block = NULL, *csv = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
        snprintf(titles[i], sizeof(titles[i]), "C%zu", i);
        columns[i] = (struct table_column){titles[i], titles[i], TABLE_TEXT, NULL};
        cJSON_AddNumberToObject(row, titles[i], (double)i);
    }
    cJSON_AddItemToArray(rows, row);
    c = capture_start(1);
    assert_int_equal(table_print(rows, columns, ARRAY_SIZE(columns)), CLI_OK);
    table = capture_end(&c);
    c = capture_start(1);
    assert_int_equal(table_print_object(row, columns, ARRAY_SIZE(columns)), CLI_OK);
    block = capture_end(&c);
    c = capture_start(1);
    assert_int_equal(table_print_csv(rows, columns, ARRAY_SIZE(columns)), CLI_OK);
    csv = capture_end(&c);
    assert_non_null(strstr(table, "  C98  C99\n"));
    assert_non_null(strstr(table, "  98   99\n"));
    assert_non_null(strstr(block, "C99: 99\n"));
    assert_non_null(strstr(csv, ",98,99\n"));
}

static void test_manifest_names(void **state)
{
    static const char *const t[][2] = {{"model.tbenc", "model.manifest.json"},
                                       {"d.tbenc/x.tbenc", "d.tbenc/x.manifest.json"},
                                       {"x.bin", "x.bin.manifest.json"},
                                       {"d/.tbenc", "d/.tbenc.manifest.json"},
                                       {".tbenc", ".tbenc.manifest.json"}};

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        _cleanup_free_ char *name = asset_manifest_name(t[i][0]);

        assert_string_equal(name, t[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_common_options_are_handled),
        cmocka_unit_test(test_values_are_of_their_kind),
        cmocka_unit_test(test_options_beat_environment_beats_file),
        cmocka_unit_test(test_usage_errors_repeat_no_value),
        cmocka_unit_test(test_words_beside_the_options),
        cmocka_unit_test(test_an_error_is_one_plain_line),
        cmocka_unit_test(test_key_hex_leaves_argv),
        cmocka_unit_test(test_the_key_file_wins_over_the_environment),
        cmocka_unit_test(test_standard_input_is_given_out_once),
        cmocka_unit_test(test_an_interrupt_removes_temporary_files),
        cmocka_unit_test(test_a_table_has_as_many_columns_as_its_caller),
        cmocka_unit_test(test_manifest_names),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
