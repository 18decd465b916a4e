/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "hydrate/ranges.h"

static void test_geometry(void **state)
{
    _cleanup_ranges_ struct ranges r = {0};

    assert_int_equal(ranges_init(&r, 0, 1), -EINVAL);
    assert_int_equal(ranges_init(&r, 1, 0), -EINVAL);
    assert_int_equal(ranges_init(&r, RANGES_MAX + 1ULL, 1), -EFBIG);
    assert_int_equal(ranges_init(&r, UINT64_MAX, UINT64_MAX - 1), 0);
    assert_true(r.n == 2 && ranges_len(&r, 1) == 1);
    ranges_clear(&r);
    assert_int_equal(ranges_init(&r, 105, 10), 0);
    assert_true(r.n == 11 && ranges_start(&r, 10) == 100 && ranges_len(&r, 9) == 10 &&
                ranges_len(&r, 10) == 5);
    assert_true(ranges_chunk_for(105, 10) == 10);
    assert_true(ranges_chunk_for(1ULL << 40, 1024) == 1ULL << 20);
}

static void test_prefix_and_bytes(void **state)
{
    _cleanup_ranges_ struct ranges r = {0};

    assert_int_equal(ranges_init(&r, 105, 10), 0);
    ranges_add(&r, 1);
    ranges_add(&r, 10);
    ranges_add(&r, 10);
    assert_true(r.bytes == 15 && r.prefix == 0 && ranges_prefix_bytes(&r) == 0);
    ranges_add(&r, 0);
    assert_true(r.prefix == 2 && ranges_prefix_bytes(&r) == 20);
    assert_true(ranges_next_missing(&r, 0) == 2 && ranges_next_missing(&r, 10) == 11);
    for (uint64_t i = 0; i < r.n; i++)
        ranges_add(&r, i);
    assert_true(r.bytes == 105 && ranges_prefix_bytes(&r) == 105 && ranges_next_missing(&r, 0) == 11);
}

static void check_text(const char *text, int want)
{
    _cleanup_ranges_ struct ranges r = {0};
    _cleanup_free_ char *again = NULL;

    assert_int_equal(ranges_init(&r, 200, 10), 0);
    assert_int_equal(ranges_parse(&r, text, strlen(text)), want);
    if (want < 0)
        return;
    again = ranges_format(&r);
    assert_string_equal(again, text);
}

static void test_text(void **state)
{
    static const char *const good[] = {"", "0", "0-1", "0-17,19", "3,5-6,8", "0-19", "19"};
    static const char *const bad[] = {"20",
                                      "0-20",
                                      "1-0",
                                      "1-1",
                                      "1,2",
                                      "1-3,4",
                                      "5,3",
                                      "3,3",
                                      ",",
                                      "1,",
                                      ",1",
                                      "1--2",
                                      "01",
                                      "1-02",
                                      "-1",
                                      "1-",
                                      "x",
                                      " 1",
                                      "1 ",
                                      "+1",
                                      "1;3",
                                      "0-18446744073709551616",
                                      "18446744073709551617"};

    for (size_t i = 0; i < ARRAY_SIZE(good); i++)
        check_text(good[i], 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        check_text(bad[i], -EINVAL);
}

static void test_copy(void **state)
{
    _cleanup_ranges_ struct ranges a = {0}, b = {0};

    assert_int_equal(ranges_init(&a, 105, 10), 0);
    ranges_add(&a, 0);
    ranges_add(&a, 4);
    assert_int_equal(ranges_copy(&b, &a), 0);
    ranges_add(&a, 5);
    assert_true(ranges_has(&b, 4) && !ranges_has(&b, 5) && b.prefix == 1 && b.bytes == 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_prefix_and_bytes),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
