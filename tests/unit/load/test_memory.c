/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <cmocka.h>

#include "load/memory.h"

static void test_reads_meminfo(void **state)
{
    static const char text[] =
        "MemTotal:       24684084 kB\nMemFree:          123456 kB\nMemAvailable:   20000001 kB\n"
        "HugePages_Total:       0\nHuge:  18446744073709551615 kB\nOdd: x kB\n";
    uint64_t v = 5;

    assert_int_equal(tb_meminfo_parse(text, strlen(text), "MemAvailable", &v), 0);
    assert_int_equal(v, 20000001ULL * 1024);
    assert_int_equal(tb_meminfo_parse(text, strlen(text), "MemAvail", &v), -EBADMSG);
    assert_int_equal(tb_meminfo_parse(text, strlen(text), "Huge", &v), -EBADMSG);
    assert_int_equal(tb_meminfo_parse(text, strlen(text), "Odd", &v), -EBADMSG);
    assert_int_equal(tb_meminfo_parse(text, 20, "MemAvailable", &v), -EBADMSG);
    assert_int_equal(tb_meminfo_parse("", 0, "MemAvailable", &v), -EBADMSG);
    assert_int_equal(v, 20000001ULL * 1024);
}

#define HEAD "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

static void test_reads_swaps(void **state)
{
    static const char none[] = HEAD;
    static const char two[] = HEAD "/dev/zram0                              partition\t4194300\t\t0\t\t100\n"
                                   "/swap\\040file                           file\t\t1048572\t\t12\t\t-2\n";
    char name[TB_SWAP_NAME_MAX];

    assert_int_equal(tb_swaps_parse(none, strlen(none), name), 0);
    assert_string_equal(name, "");
    assert_int_equal(tb_swaps_parse("", 0, name), 0);
    assert_int_equal(tb_swaps_parse(two, strlen(two), name), 2);
    assert_string_equal(name, "/dev/zram0");
    assert_int_equal(tb_swaps_parse(two, strlen(HEAD) + 12, name), 1); /* cut anywhere it still counts */
    assert_string_equal(name, "/dev/zram0");
}

static void test_finds_mount_options(void **state)
{
    static const char text[] =
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
        "30 22 0:26 / /dev/shm rw,nosuid,nodev shared:4 - tmpfs tmpfs rw,size=24684084k\n"
        "99 22 0:44 / /m\\040x rw,noswap - tmpfs tb-model rw,size=10240k,mode=700,noswap,inode64\n"
        "98 22 0:45 / /n rw,noswap shared:9 master:3 - tmpfs tb-model rw,noswapping\n"
        "no separator\n";

    assert_true(tb_mountinfo_option(text, strlen(text), makedev(0, 44), "noswap"));
    assert_true(tb_mountinfo_option(text, strlen(text), makedev(0, 44), "rw"));
    assert_false(tb_mountinfo_option(text, strlen(text), makedev(0, 26), "noswap"));
    assert_false(tb_mountinfo_option(text, strlen(text), makedev(0, 45), "noswap"));
    assert_false(tb_mountinfo_option(text, strlen(text), makedev(0, 4), "noswap"));
    assert_false(tb_mountinfo_option("", 0, makedev(0, 44), "noswap"));
}

static void test_counts_pages_and_inodes(void **state)
{
    struct tbenc_file files[] = {{.path = (char *)"a"}, {.path = (char *)"b/c"}, {.path = (char *)"b/d/e"}};
    struct tbenc_manifest one = {.plaintext_bytes = 4097},
                          tree = {.plaintext_bytes = 0, .files = files, .n_files = 3};

    assert_int_equal(tb_memory_inodes(&one), 2);
    assert_int_equal(tb_memory_need(&one), 2 * 4096 + 2 * 2 * 4096 + 1024 * 1024);
    assert_int_equal(tb_memory_inodes(&tree), 3 + 1 + 3); /* shared directories are counted more than once */
    one.plaintext_bytes = TBENC_PLAINTEXT_MAX;
    assert_true(tb_memory_need(&one) > TBENC_PLAINTEXT_MAX);
}

static void test_asks_the_system(void **state)
{
    struct stat st;
    uint64_t v = 0;

    assert_int_equal(tb_memory_available(&v), 0);
    assert_true(v > 1024 * 1024);
    assert_int_equal(stat("/proc", &st), 0);
    assert_false(tb_memory_noswap(st.st_dev));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reads_meminfo),       cmocka_unit_test(test_reads_swaps),
        cmocka_unit_test(test_finds_mount_options), cmocka_unit_test(test_counts_pages_and_inodes),
        cmocka_unit_test(test_asks_the_system),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
