/* SPDX-License-Identifier: Apache-2.0 */
/* How many threads and connections download. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "hydrate/threads.h"

static void test_a_quarter_of_the_processors_and_the_link_decide(void **state)
{
    static const struct {
        unsigned cpus, connections, threads;
        uint64_t mbit;
    } rows[] = {
        {.cpus = 1, .connections = 8, .threads = 1},
        {.cpus = 2, .connections = 8, .threads = 1},
        {.cpus = 7, .connections = 8, .threads = 1},
        {.cpus = 8, .connections = 8, .threads = 2}, /* nobody tells the link */
        {.cpus = 96, .connections = 32, .threads = 16},
        {.cpus = 96, .connections = 32, .mbit = 1000, .threads = 1},
        {.cpus = 96, .connections = 32, .mbit = 6400, .threads = 1},
        {.cpus = 96, .connections = 32, .mbit = 6401, .threads = 2},
        {.cpus = 96, .connections = 32, .mbit = 80000, .threads = 13},
        {.cpus = 96, .connections = 32, .mbit = UINT32_MAX, .threads = 16},
        {.cpus = 16, .connections = 32, .mbit = 80000, .threads = 4},
        {.cpus = 96, .connections = 3, .mbit = 80000, .threads = 3},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
        assert_int_equal(threads_for(rows[i].cpus, rows[i].mbit, rows[i].connections), rows[i].threads);
    assert_int_equal(threads_connections_for(15), 8);
    assert_int_equal(threads_connections_for(16), 32);
    assert_true(threads_cpus() >= 1);
}

static void put(const char *dir, const char *name, const char *speed, bool real)
{
    _cleanup_free_ char *device = tb_strf("%s/%s/device", dir, name);
    _cleanup_free_ char *file = tb_strf("%s/%s/speed", dir, name);

    *strrchr(device, '/') = '\0';
    assert_int_equal(tb_mkdir_p(device, 0755), 0);
    device[strlen(device)] = '/';
    if (real)
        assert_int_equal(tb_mkdir_p(device, 0755), 0);
    assert_int_equal(tb_write_file_atomic(file, speed, strlen(speed), 0644), 0);
}

static void test_the_fastest_device_that_is_one(void **state)
{
    char dir[] = "/tmp/tb-link-XXXXXX", command[64];

    assert_non_null(mkdtemp(dir));
    assert_int_equal(threads_link_mbit(dir), 0);
    put(dir, "veth0", "10000\n", false); /* a virtual one says what it likes */
    put(dir, "eth0", "-1\n", true);      /* it does not know */
    put(dir, "eth1", "junk\n", true);
    assert_int_equal(threads_link_mbit(dir), 0);
    put(dir, "eth2", "1000\n", true);
    put(dir, "eth3", "50000\n", true);
    put(dir, "eth4", "25000\n", true);
    assert_int_equal(threads_link_mbit(dir), 50000);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(threads_link_mbit(dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_quarter_of_the_processors_and_the_link_decide),
        cmocka_unit_test(test_the_fastest_device_that_is_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
