/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <stdio.h>

#include "controlplane/api/limits.h"

#define S 1000000ULL

static unsigned take_all(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t now)
{
    unsigned n = 0;

    while (cp_limits_take(l, which, who, now) == 0)
        n++;
    return n;
}

static void test_a_burst_and_then_a_rate(void **state)
{
    struct cp_limits *l = cp_limits_new(50, 10);

    assert_int_equal(take_all(l, CP_LIMIT_CLIENT, "a", S), CP_CLIENT_BURST);
    assert_int_equal(cp_limits_take(l, CP_LIMIT_CLIENT, "a", S), 1);
    assert_int_equal(take_all(l, CP_LIMIT_CLIENT, "a", 2 * S), 50);
    assert_int_equal(take_all(l, CP_LIMIT_CLIENT, "b", 2 * S), CP_CLIENT_BURST); /* another has his own */
    assert_int_equal(take_all(l, CP_LIMIT_CONTRACT, "a", 2 * S), CP_CONTRACT_BURST);
    assert_int_equal(take_all(l, CP_LIMIT_CLIENT, "a", 1000 * S), CP_CLIENT_BURST);
    cp_limits_free(l);
}

static void test_guessing_is_slow(void **state)
{
    struct cp_limits *l = cp_limits_new(0, 0);

    assert_int_equal(cp_limits_look(l, CP_LIMIT_GUESS, "a", S), 0);
    assert_int_equal(take_all(l, CP_LIMIT_GUESS, "a", S), CP_GUESS_BURST);
    assert_int_equal(cp_limits_look(l, CP_LIMIT_GUESS, "a", S), 6);
    assert_int_equal(take_all(l, CP_LIMIT_GUESS, "a", 61 * S), CP_GUESSES_PER_MINUTE);
    for (int i = 0; i < 10000; i++) /* no limit */
        assert_int_equal(cp_limits_take(l, CP_LIMIT_CLIENT, "a", S), 0);
    assert_int_equal(cp_limits_take(NULL, CP_LIMIT_CLIENT, "a", S), 0);
    cp_limits_free(l);
}

/* A flood of addresses pushes out those that wait the least. */
static void test_a_full_table_keeps_the_worst(void **state)
{
    struct cp_limits *l = cp_limits_new(50, 50);
    char who[32];

    take_all(l, CP_LIMIT_GUESS, "guesser", S);
    for (int i = 0; i < 100000; i++) {
        snprintf(who, sizeof(who), "10.%d.%d.%d", i >> 16, i >> 8 & 255, i & 255);
        (void)cp_limits_take(l, CP_LIMIT_GUESS, who, S);
    }
    assert_true(cp_limits_look(l, CP_LIMIT_GUESS, "guesser", S) > 0);
    cp_limits_free(l);
}

/* Whoever has one address of a network of IPv6 has as many as there are stars. */
static void test_a_network_is_one(void **state)
{
    struct cp_limits *l = cp_limits_new(0, 0);

    take_all(l, CP_LIMIT_GUESS, "2001:db8:1:2::1", S);
    assert_true(cp_limits_look(l, CP_LIMIT_GUESS, "2001:db8:1:2:ffff:ffff:ffff:ffff", S) > 0);
    assert_true(cp_limits_take(l, CP_LIMIT_GUESS, "2001:db8:1:2::abcd", S) > 0);
    assert_int_equal(cp_limits_look(l, CP_LIMIT_GUESS, "2001:db8:1:3::1", S), 0);
    take_all(l, CP_LIMIT_GUESS, "::ffff:192.0.2.1", S);
    assert_int_equal(cp_limits_look(l, CP_LIMIT_GUESS, "::ffff:192.0.2.2", S), 0);
    assert_int_equal(cp_limits_look(l, CP_LIMIT_GUESS, "192.0.2.2", S), 0);
    cp_limits_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_burst_and_then_a_rate),
        cmocka_unit_test(test_guessing_is_slow),
        cmocka_unit_test(test_a_full_table_keeps_the_worst),
        cmocka_unit_test(test_a_network_is_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
