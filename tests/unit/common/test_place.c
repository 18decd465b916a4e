/* SPDX-License-Identifier: Apache-2.0 */
/* When a place is low and when it is full; and that what does not exist yet has the room of where it will be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "common/place.h"

#define MIB (1024 * 1024ULL)

struct row {
    struct tb_place p;
    bool low, full;
};

static void test_low_and_full(void **unused)
{
    static const struct row rows[] = {
        {{.known = false}, false, false},
        {{.known = true, .size_bytes = 0}, false, false}, /* no file system of a disk */
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 10 * MIB, .low_bytes = 10 * MIB},
         false,
         false},
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 10 * MIB - 1, .low_bytes = 10 * MIB},
         true,
         false},
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 70000, .low_bytes = 0},
         false,
         false}, /* not asked for */
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 65536, .low_bytes = 10 * MIB}, true, false},
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 65535, .low_bytes = 0}, true, true},
        {{.known = true,
          .size_bytes = 100 * MIB,
          .free_bytes = 50 * MIB,
          .low_bytes = 1,
          .files = 1000,
          .free_files = 19},
         true,
         false},
        {{.known = true,
          .size_bytes = 100 * MIB,
          .free_bytes = 50 * MIB,
          .low_bytes = 1,
          .files = 1000,
          .free_files = 20},
         false,
         false},
        {{.known = true, .size_bytes = 100 * MIB, .free_bytes = 50 * MIB, .low_bytes = 1, .files = 1000},
         true,
         true},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        assert_int_equal(tb_place_is_low(&rows[i].p), rows[i].low);
        assert_int_equal(tb_place_is_full(&rows[i].p), rows[i].full);
    }
}

static void test_the_settings_make_the_places(void **unused)
{
    static char run[] = "/run", state[] = "/var/lib", target[] = "/nowhere/at/all",
                file[] = "/tmp/x/audit.jsonl", device[] = "/dev/full", top[] = "/audit";
    struct tb_config c = {.run_dir = run, .state_dir = state, .target_dir = target, .audit_file = file};
    struct tb_place p[_TB_PLACE_MAX];

    tb_places_init(p, &c);
    assert_string_equal(p[TB_PLACE_AUDIT].path, "/tmp/x");
    tb_places_measure(p, 1ULL << 30);
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        assert_true(p[i].known || i == TB_PLACE_JOURNAL);
    assert_true(p[TB_PLACE_CIPHERTEXT].size_bytes > 0); /* of the file system that it will be on */
    assert_true(p[TB_PLACE_STATE].low_bytes <= 1ULL << 30 &&
                p[TB_PLACE_STATE].low_bytes <= p[TB_PLACE_STATE].size_bytes / 10);
    c.audit_file = device;
    tb_places_init(p, &c);
    assert_string_equal(p[TB_PLACE_AUDIT].path, ""); /* that is no place */
    c.audit_file = top;
    tb_places_init(p, &c);
    assert_string_equal(p[TB_PLACE_AUDIT].path, "/");
    c.audit_file = NULL;
    tb_places_init(p, &c);
    tb_places_measure(p, 0);
    assert_false(p[TB_PLACE_AUDIT].known);
    assert_int_equal(p[TB_PLACE_STATE].low_bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_low_and_full),
        cmocka_unit_test(test_the_settings_make_the_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
