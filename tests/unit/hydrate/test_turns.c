/* SPDX-License-Identifier: Apache-2.0 */
/* Every place has its turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hydrate/turns.h"

static void test_all_places_in_a_circle_the_own_one_second(void **state)
{
    static const int want[][8] = {
        {-1, -1, -1, -1}, {0, -1, 0, -1}, {0, -1, 1, 0, -1, 1}, {0, -1, 1, 2, 0, -1, 1, 2}};

    for (unsigned n = 0; n < 4; n++)
        for (unsigned turn = 0; turn < 2 * (n + 1); turn++)
            assert_int_equal(turns_place(turn, n), n == 0 ? -1 : want[n][turn]);
}

static void test_each_record_has_turns_of_its_own(void **state)
{
    struct turns t = {0};

    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(turns_next(&t, 32, 1), i);
        assert_int_equal(turns_next(&t, 4096, 2), i + 1); /* an earlier run had the first */
    }
    assert_int_equal(turns_next(&t, 32, 3), 5); /* what was asked for here counts */
    assert_int_equal(turns_next(&t, 64, 0), 0);
}

static void test_of_too_many_the_oldest_gives_way(void **state)
{
    struct turns t = {0};

    for (uint64_t i = 0; i < 3 * TB_WANT_MAX; i++)
        assert_int_equal(turns_next(&t, i * 100, 1), 0);
    assert_int_equal(turns_next(&t, 100 * (3 * TB_WANT_MAX - 1), 1), 1);
    assert_int_equal(turns_next(&t, 0, 1), 0);
    assert_int_equal(t.n, TB_WANT_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_places_in_a_circle_the_own_one_second),
        cmocka_unit_test(test_each_record_has_turns_of_its_own),
        cmocka_unit_test(test_of_too_many_the_oldest_gives_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
