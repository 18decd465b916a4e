/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "common/io.h"
#include "provider/asset/model_dir.h"

static char dir[] = "/tmp/tb-model_dir-XXXXXX";

static int make_dir(void **state)
{
    return mkdtemp(dir) && chdir(dir) == 0 && mkdir("m", 0700) == 0 ? 0 : -1;
}

static int remove_dir(void **state)
{
    _cleanup_free_ char *cmd = tb_strf("rm -rf %s", dir);

    return system(cmd);
}

static int clean(void **state)
{
    return system("rm -rf m && mkdir m");
}

static void put(const char *path, const char *text, mode_t mode)
{
    assert_int_equal(tb_write_file_atomic(path, text, strlen(text), mode), 0);
}

static void test_files_are_sorted_by_bytes(void **state)
{
    _cleanup_model_dir_ struct model_dir m = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    static const char *const want[] = {".h", "Z", "a", "a-b", "a.d/x", "a/e", "\xc3\xa4"};

    /* "a/e" sorts after "a-b" and "a.d/x": '/' is an ordinary byte */
    mkdir("m/a.d", 0700);
    mkdir("m/none", 0700);
    put("m/.h", "1", 0640);
    put("m/Z", "22", 0600);
    put("m/a-b", "", 0755);
    put("m/a.d/x", "333", 04644);
    put("m/\xc3\xa4", "4444", 0644);
    put("m/a", "", 0644);
    assert_int_equal(unlink("m/a"), 0);
    mkdir("m/a", 0700);
    put("m/a/e", "55555", 0644);
    assert_int_equal(model_dir_open("m", NULL, &m, &e), 0);
    assert_int_equal(m.n, ARRAY_SIZE(want) - 1);
    for (size_t i = 0, w = 0; i < m.n; i++, w++) {
        w += strcmp(want[w], "a") == 0;
        assert_string_equal(m.inputs[i].path, want[w]);
    }
    assert_int_equal(m.bytes, 15);
    assert_int_equal(m.empty_dirs, 1);
    assert_int_equal(m.inputs[0].mode, 0640);
    assert_int_equal(m.inputs[3].mode, 0644); /* no set-user-id bit */
    assert_int_equal(m.inputs[3].bytes, 3);
    assert_int_equal(model_dir_check_unchanged(&m, "m", &e), 0);
}

static void refused(int want, const char *object)
{
    _cleanup_model_dir_ struct model_dir m = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0};

    assert_int_equal(model_dir_open("m", NULL, &m, &e), want);
    assert_string_equal(e.object, object);
    assert_int_equal(m.n, 0);
}

static void test_only_regular_files_are_taken(void **state)
{
    put("m/a", "1", 0600);
    assert_int_equal(symlink("a", "m/l"), 0);
    refused(-EMEDIUMTYPE, "m/l");
    assert_int_equal(unlink("m/l"), 0);
    assert_int_equal(symlink(".", "m/loop"), 0);
    refused(-EMEDIUMTYPE, "m/loop");
    assert_int_equal(unlink("m/loop"), 0);
    assert_int_equal(mkfifo("m/f", 0600), 0);
    refused(-EMEDIUMTYPE, "m/f");
    assert_int_equal(unlink("m/f"), 0);
    put("m/bad\x01", "1", 0600);
    refused(-EILSEQ, "m/bad\x01");
    assert_int_equal(unlink("m/bad\x01"), 0);
    put("m/\xff", "1", 0600);
    refused(-EILSEQ, "m/\xff");
}

static void test_depth_is_limited(void **state)
{
    _cleanup_model_dir_ struct model_dir m = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0};
    char name[101];
    int here = open(".", O_RDONLY | O_DIRECTORY);

    memset(name, 'd', 100);
    name[100] = '\0';
    assert_int_equal(chdir("m"), 0);
    for (int i = 0; i < 12; i++)
        assert_true(mkdir(name, 0700) == 0 && chdir(name) == 0);
    assert_int_equal(fchdir(here), 0);
    close(here);
    assert_int_equal(model_dir_open("m", NULL, &m, &e), -EILSEQ);
    assert_string_equal(e.reason, "is nested too deep");
}

static void test_a_missing_directory_is_named(void **state)
{
    _cleanup_model_dir_ struct model_dir m = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0};

    assert_int_equal(model_dir_open("nowhere", NULL, &m, &e), -ENOENT);
    assert_string_equal(e.object, "nowhere");
    assert_null(e.reason);
}

static void test_a_change_is_noticed(void **state)
{
    struct timespec t[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000, .tv_nsec = 5}};
    _cleanup_model_dir_ struct model_dir m = {0};
    _cleanup_model_dir_error_ struct model_dir_error e = {0}, e2 = {0};

    put("m/a", "1", 0600);
    put("m/b", "1", 0600);
    assert_int_equal(model_dir_open("m", NULL, &m, &e), 0);
    assert_int_equal(utimensat(AT_FDCWD, "m/b", t, 0), 0);
    assert_int_equal(model_dir_check_unchanged(&m, "m", &e), -ESTALE);
    assert_string_equal(e.object, "m/b");
    assert_int_equal(truncate("m/a", 0), 0);
    assert_int_equal(model_dir_check_unchanged(&m, "m", &e2), -ESTALE);
    assert_string_equal(e2.object, "m/a");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_files_are_sorted_by_bytes, clean),
        cmocka_unit_test_teardown(test_only_regular_files_are_taken, clean),
        cmocka_unit_test_teardown(test_depth_is_limited, clean),
        cmocka_unit_test_teardown(test_a_missing_directory_is_named, clean),
        cmocka_unit_test_teardown(test_a_change_is_noticed, clean),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
