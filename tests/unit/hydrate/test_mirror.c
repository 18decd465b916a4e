/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of a mirror: how long it rests, and what it gave. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/units.h"
#include "hydrate/mirror.h"

#define NOW (1000 * TB_USEC_PER_SEC)

static void begin(struct mirror *m)
{
    assert_int_equal(mirror_init(m, "https://cache/", true, "https://a.example/c/b?sig=x", 20), 0);
    assert_string_equal(m->url, "https://cache/c/b?sig=x");
    mirror_ask(m);
}

static void test_what_it_gave_and_is_bad_ends_the_trust(void **state)
{
    _cleanup_mirror_ struct mirror m = {0};

    begin(&m);
    mirror_gave(&m, 7, 100);
    mirror_answer(&m);
    assert_int_equal(m.bytes, 100);
    mirror_doubt(&m, 0, 6);
    mirror_doubt(&m, 8, UINT64_MAX);
    assert_true(mirror_may_ask(&m, NOW));
    mirror_doubt(&m, 6, 8);
    assert_false(mirror_may_ask(&m, NOW));
}

/* Else one that breaks off in time could go on lying. */
static void test_so_does_a_part_of_a_range(void **state)
{
    for (int kept = 0; kept < 2; kept++) {
        _cleanup_mirror_ struct mirror m = {0};

        begin(&m);
        mirror_fail(&m, 7, kept, "it broke off", NOW);
        assert_false(mirror_may_ask(&m, NOW));
        assert_true(mirror_may_ask(&m, NOW + 2ULL * MIRROR_REST_CAP_MS * 1000));
        mirror_doubt(&m, 7, 7);
        assert_int_equal(mirror_may_ask(&m, NOW + 2ULL * MIRROR_REST_CAP_MS * 1000), !kept);
    }
}

/* And of several that were on their way each is remembered, though one alone is told. */
static void test_each_part_is_remembered(void **state)
{
    _cleanup_mirror_ struct mirror m = {0};

    begin(&m);
    mirror_ask(&m);
    mirror_fail(&m, 3, false, "it broke off", NOW);
    mirror_fail(&m, 4, true, "it broke off", NOW);
    assert_int_equal(m.asked, 0);
    mirror_doubt(&m, 4, 4);
    assert_false(mirror_may_ask(&m, NOW + 2ULL * MIRROR_REST_CAP_MS * 1000));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_it_gave_and_is_bad_ends_the_trust),
        cmocka_unit_test(test_so_does_a_part_of_a_range),
        cmocka_unit_test(test_each_part_is_remembered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
