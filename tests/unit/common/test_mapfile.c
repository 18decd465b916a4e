/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "common/io.h"
#include "common/mapfile.h"

#define MAGIC "TBTESTS1"
#define BYTES 4096

static char dir[] = "/tmp/tb-map-file-XXXXXX", path[64];

static int make_dir(void **state)
{
    snprintf(path, sizeof(path), "%s/file", mkdtemp(dir) ? dir : "");
    return 0;
}

static int remove_dir(void **state)
{
    unlink(path);
    return rmdir(dir);
}

static void put(const void *content, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, content, len), len);
    close(fd);
}

static void check_opens(bool reserve)
{
    void *map = NULL;
    int fd = tb_mapfile_open(path, MAGIC, BYTES, reserve, &map);
    char found[8];
    struct stat st;

    assert_true(fd >= 0);
    assert_int_equal(tb_pread_full(fd, found, sizeof(found), 0), sizeof(found));
    assert_memory_equal(found, MAGIC, sizeof(found));
    assert_memory_equal(map, MAGIC, sizeof(found));
    assert_int_equal(munmap(map, BYTES), 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, BYTES);
    assert_true(!reserve || st.st_blocks * 512 >= BYTES);
    close(fd);
}

static void test_a_new_one_and_again(void **state)
{
    unlink(path);
    check_opens(true);
    check_opens(true);
    unlink(path);
    check_opens(false);
}

static void test_what_is_written_to_the_map_is_in_the_file(void **state)
{
    char found[4];
    void *map = NULL;
    int fd;

    unlink(path);
    fd = tb_mapfile_open(path, MAGIC, BYTES, false, &map);
    assert_true(fd >= 0);
    memcpy((char *)map + BYTES - 4, "last", 4);
    assert_int_equal(tb_pread_full(fd, found, 4, BYTES - 4), 4);
    assert_memory_equal(found, "last", 4);
    assert_int_equal(munmap(map, BYTES), 0);
    close(fd);
}

/* What a power cut leaves of a file that had not reached the disk: a name, perhaps a size. */
static void test_without_content_it_is_new(void **state)
{
    static const char zeros[BYTES];

    put("", 0);
    check_opens(true);
    put(zeros, sizeof(zeros));
    check_opens(true);
}

static void test_what_is_in_it_stays(void **state)
{
    char page[BYTES] = MAGIC "content", found[BYTES];
    int fd;

    put(page, sizeof(page));
    check_opens(true);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(tb_pread_full(fd, found, sizeof(found), 0), sizeof(found));
    assert_memory_equal(found, page, sizeof(page));
    close(fd);
}

static void test_another_kind_of_file_is_left_alone(void **state)
{
    struct stat st;
    void *map;

    put("something else", 14);
    assert_int_equal(tb_mapfile_open(path, MAGIC, BYTES, true, &map), -EBADMSG);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 14);
    assert_int_equal(tb_mapfile_open("/dev/null", MAGIC, BYTES, true, &map), -EBADMSG);
    assert_int_equal(tb_mapfile_open("/nonexistent/file", MAGIC, BYTES, true, &map), -ENOENT);
}

static void check_kept(int fd, const char *map)
{
    char found[BYTES];
    struct stat named, open_one;

    assert_int_equal(stat(path, &named), 0);
    assert_int_equal(fstat(fd, &open_one), 0);
    assert_true(named.st_ino == open_one.st_ino);
    assert_int_equal(tb_pread_full(fd, found, BYTES, 0), BYTES);
    assert_memory_equal(found, map, BYTES);
}

/* What is in memory is in the file of that name again, and goes on to be; twice. */
static void test_one_that_was_removed_is_put_back(void **state)
{
    char found[4];
    void *map = NULL;
    int fd;

    unlink(path);
    fd = tb_mapfile_open(path, MAGIC, BYTES, true, &map);
    assert_true(fd >= 0);
    memcpy((char *)map + 100, "kept", 4);
    assert_int_equal(tb_mapfile_keep(path, &fd, map, BYTES, true, true), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(unlink(path), 0);
        assert_int_equal(tb_mapfile_keep(path, &fd, map, BYTES, true, true), 1);
        check_kept(fd, map);
        assert_memory_equal((char *)map + 100, "kept", 4);
        memcpy((char *)map + 200, "more", 4);
        assert_int_equal(tb_pread_full(fd, found, 4, 200), 4);
        assert_memory_equal(found, "more", 4);
        assert_int_equal(tb_mapfile_keep(path, &fd, map, BYTES, true, true), 0);
    }
    assert_int_equal(munmap(map, BYTES), 0);
    close(fd);
}

static void test_what_is_in_its_place_is_set_aside(void **state)
{
    char command[256];
    void *map = NULL;
    int fd;

    unlink(path);
    fd = tb_mapfile_open(path, MAGIC, BYTES, false, &map);
    assert_true(fd >= 0);
    unlink(path);
    put("something else", 14);
    assert_int_equal(tb_mapfile_keep(path, &fd, map, BYTES, false, false), 1);
    check_kept(fd, map);
    snprintf(command, sizeof(command), "grep -qx 'something else' %s.corrupt-* && rm %s.corrupt-*", path,
             path);
    assert_int_equal(system(command), 0);
    assert_int_equal(munmap(map, BYTES), 0);
    close(fd);
}

/* Nothing changes, and the next try may work. */
static void test_one_that_cannot_be_put_back_stays_mapped(void **state)
{
    char elsewhere[64];
    void *map = NULL;
    int fd, old;

    unlink(path);
    fd = tb_mapfile_open(path, MAGIC, BYTES, false, &map);
    assert_true(fd >= 0);
    unlink(path);
    old = fd;
    snprintf(elsewhere, sizeof(elsewhere), "%s/none/file", dir);
    assert_int_equal(tb_mapfile_keep(elsewhere, &fd, map, BYTES, false, false), -ENOENT);
    assert_int_equal(fd, old);
    assert_memory_equal(map, MAGIC, 8);
    assert_int_equal(tb_mapfile_keep(path, &fd, map, BYTES, false, false), 1);
    assert_int_equal(munmap(map, BYTES), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_new_one_and_again),
        cmocka_unit_test(test_what_is_written_to_the_map_is_in_the_file),
        cmocka_unit_test(test_without_content_it_is_new),
        cmocka_unit_test(test_what_is_in_it_stays),
        cmocka_unit_test(test_another_kind_of_file_is_left_alone),
        cmocka_unit_test(test_one_that_was_removed_is_put_back),
        cmocka_unit_test(test_what_is_in_its_place_is_set_aside),
        cmocka_unit_test(test_one_that_cannot_be_put_back_stays_mapped),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
