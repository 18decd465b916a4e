/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "proxy/usage/response_sizes.h"

static struct tb_response_sizes sizes;

static void test_what_was_said_is_found(void **unused)
{
    assert_true(tb_response_sizes_find(&sizes, "resp_1") == UINT64_MAX);
    tb_response_sizes_note(&sizes, "resp_1", 100);
    tb_response_sizes_note(&sizes, "resp_2", 200);
    assert_int_equal(tb_response_sizes_find(&sizes, "resp_1"), 100);
    assert_int_equal(tb_response_sizes_find(&sizes, "resp_2"), 200);
    assert_true(tb_response_sizes_find(&sizes, "resp_") == UINT64_MAX);
    assert_true(tb_response_sizes_find(&sizes, "") == UINT64_MAX);
}

/* Nobody makes a response look smaller than one of its name was. */
static void test_a_name_that_comes_twice(void **unused)
{
    tb_response_sizes_note(&sizes, "mine", 5000);
    tb_response_sizes_note(&sizes, "mine", 3);
    assert_int_equal(tb_response_sizes_find(&sizes, "mine"), 5000);
    tb_response_sizes_note(&sizes, "mine", UINT64_MAX);
    tb_response_sizes_note(&sizes, "mine", 3);
    assert_true(tb_response_sizes_find(&sizes, "mine") == UINT64_MAX);
    tb_response_sizes_note(&sizes, "m\x7f", 3); /* one of many letters, as the scanner gives them */
    assert_true(tb_response_sizes_find(&sizes, "m\x7f") == UINT64_MAX);
    tb_response_sizes_note(&sizes, "", 3);
    assert_true(tb_response_sizes_find(&sizes, "") == UINT64_MAX);
}

/* However many there are: each is right or not known. */
static void test_many(void **unused)
{
    unsigned known = 0;
    char id[32];

    for (unsigned i = 0; i < 3 * TB_RESPONSE_SIZES; i++) {
        snprintf(id, sizeof(id), "resp_%u", i);
        tb_response_sizes_note(&sizes, id, i);
    }
    for (unsigned i = 0; i < 3 * TB_RESPONSE_SIZES; i++) {
        uint64_t v;

        snprintf(id, sizeof(id), "resp_%u", i);
        v = tb_response_sizes_find(&sizes, id);
        assert_true(v == i || v == UINT64_MAX || i < 3);
        known += v == i;
    }
    assert_true(known > TB_RESPONSE_SIZES / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_said_is_found),
        cmocka_unit_test(test_a_name_that_comes_twice),
        cmocka_unit_test(test_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
