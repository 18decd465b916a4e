/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <stdio.h>
#include <string.h>

#include "controlplane/blob/deal.h"

#define MACHINES 6000

static struct cp_places places;

static void make(size_t n)
{
    memset(&places, 0, sizeof(places));
    places.n = n;
    for (size_t i = 0; i < n; i++)
        snprintf(places.v[i].ciphertext_url, sizeof(places.v[i].ciphertext_url),
                 "https://acct%zu.blob.core.windows.net/models/m/model.tbenc", i);
}

static size_t first_of(int machine)
{
    size_t order[CP_DEALT_MAX];
    char name[32];

    snprintf(name, sizeof(name), "m-%016d", machine);
    assert_int_equal(cp_deal(&places, name, order), places.n < CP_DEALT_MAX ? places.n : CP_DEALT_MAX);
    for (size_t i = 0; i < places.n && i < CP_DEALT_MAX; i++) {
        assert_true(order[i] < places.n);
        for (size_t k = 0; k < i; k++)
            assert_true(order[k] != order[i]);
    }
    return order[0];
}

static void test_one_place_is_everybodys(void **state)
{
    make(1);
    for (int m = 0; m < 10; m++)
        assert_int_equal(first_of(m), 0);
}

static void test_each_place_has_its_share(void **state)
{
    static const size_t sizes[] = {2, 3, 10, CP_PLACES_MAX};

    for (size_t k = 0; k < sizeof(sizes) / sizeof(*sizes); k++) {
        size_t count[CP_PLACES_MAX] = {0}, fair = MACHINES / sizes[k];

        make(sizes[k]);
        for (int m = 0; m < MACHINES; m++)
            count[first_of(m)]++;
        for (size_t i = 0; i < sizes[k]; i++)
            assert_true(count[i] > fair * 8 / 10 && count[i] < fair * 12 / 10);
    }
}

static void test_a_place_that_goes_moves_its_machines_alone(void **state)
{
    static size_t before[MACHINES];

    make(10);
    for (int m = 0; m < MACHINES; m++) {
        before[m] = first_of(m);
        assert_int_equal(first_of(m), before[m]);
    }
    make(9); /* the last went */
    for (int m = 0; m < MACHINES; m++)
        if (before[m] != 9)
            assert_int_equal(first_of(m), before[m]);
}

static void test_long_names_are_dealt_too(void **state)
{
    size_t order[CP_DEALT_MAX];
    char name[1000];

    memset(name, 'x', sizeof(name));
    name[sizeof(name) - 1] = '\0';
    make(3);
    memset(places.v[1].ciphertext_url, 'y', CP_URL_MAX);
    assert_int_equal(cp_deal(&places, name, order), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_place_is_everybodys),
        cmocka_unit_test(test_each_place_has_its_share),
        cmocka_unit_test(test_a_place_that_goes_moves_its_machines_alone),
        cmocka_unit_test(test_long_names_are_dealt_too),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
