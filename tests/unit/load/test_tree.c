/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "load/tree.h"

static char dir[] = "/dev/shm/tb-tree-XXXXXX", outside[] = "/dev/shm/tb-outside-XXXXXX";
static int dir_fd = -1;

static int make_dirs(void **state)
{
    if (!mkdtemp(dir) || !mkdtemp(outside))
        return -1;
    dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return dir_fd < 0 ? -1 : 0;
}

static int remove_dirs(void **state)
{
    tb_tree_empty(dir_fd);
    close(dir_fd);
    return rmdir(dir) == 0 && rmdir(outside) == 0 ? 0 : -1;
}

static void test_creates_with_directories(void **state)
{
    static const char *const paths[] = {"a", "b/c/d", "b/c/e", "b/f"};
    struct stat st;

    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        int fd = tb_tree_create(dir_fd, paths[i]);

        assert_true(fd >= 0);
        assert_int_equal(fstat(fd, &st), 0);
        assert_int_equal(st.st_mode & 07777, 0600);
        assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
        close(fd);
        assert_int_equal(tb_tree_create(dir_fd, paths[i]), -EEXIST);
    }
    assert_int_equal(fstatat(dir_fd, "b/c", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    assert_int_equal(tb_tree_create(dir_fd, "a/below-a-file"), -ENOTDIR);
}

static void test_never_leaves_the_directory(void **state)
{
    static const char *const bad[] = {"", "/etc/x", "../x", "b/../../x", "b/./x", "b//x"};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(tb_tree_create(dir_fd, bad[i]), -EINVAL);
    assert_int_equal(symlinkat(outside, dir_fd, "link"), 0);
    assert_int_equal(tb_tree_create(dir_fd, "link"), -EEXIST);
    assert_true(tb_tree_create(dir_fd, "link/x") < 0);
}

static void test_closes_and_empties(void **state)
{
    struct stat st;
    char kept[sizeof(outside) + 8];
    int fd;

    snprintf(kept, sizeof(kept), "%s/kept", outside);
    fd = open(kept, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(tb_tree_close(dir_fd), 0);
    assert_int_equal(fstatat(dir_fd, "b/c", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0500);
    assert_int_equal(fstat(dir_fd, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0500);
    tb_tree_empty(dir_fd);
    assert_int_equal(fstatat(dir_fd, "a", &st, 0), -1);
    assert_int_equal(fstatat(dir_fd, "b", &st, 0), -1);
    assert_int_equal(fstatat(dir_fd, "link", &st, AT_SYMLINK_NOFOLLOW), -1);
    assert_int_equal(unlink(kept), 0); /* was not reached through the link */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_creates_with_directories),
        cmocka_unit_test(test_never_leaves_the_directory),
        cmocka_unit_test(test_closes_and_empties),
    };

    return cmocka_run_group_tests(tests, make_dirs, remove_dirs);
}
