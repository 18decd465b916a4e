/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "hydrate/content_range.h"

static int parse(const char *s, struct content_range *cr)
{
    return content_range_parse(s, strlen(s), cr);
}

static void test_content_range(void **state)
{
    struct content_range cr;

    assert_int_equal(parse("bytes 0-9/10", &cr), 0);
    assert_true(cr.first == 0 && cr.last == 9 && cr.total == 10);
    assert_int_equal(parse(" Bytes 5-5/18446744073709551615\r\n", &cr), 0);
    assert_true(cr.first == 5 && cr.last == 5 && cr.total == UINT64_MAX);
}

static void test_content_range_refused(void **state)
{
    static const char *const bad[] = {"",
                                      "bytes",
                                      "bytes ",
                                      "bytes */10",
                                      "bytes 0-9/*",
                                      "bytes NaN-10/100", /* seen from Azurite */
                                      "bytes 9-0/10",
                                      "bytes 0-10/10",
                                      "bytes 0-9/10 x",
                                      "bytes 0 - 9/10",
                                      "bytes -1-9/10",
                                      "bytes +1-9/10",
                                      "bytes=0-9/10",
                                      "items 0-9/10",
                                      "bytes 0-9",
                                      "bytes 0-9/18446744073709551616",
                                      "bytes 0-99999999999999999999/10"};
    struct content_range cr = {7, 7, 7};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(parse(bad[i], &cr), -EINVAL);
    assert_true(cr.first == 7 && cr.last == 7 && cr.total == 7);
}

static void test_etag(void **state)
{
    char out[ETAG_MAX], longest[ETAG_MAX + 1];

    assert_int_equal(etag_parse(" \"0x8D\"\r\n", 9, out), 0);
    assert_string_equal(out, "\"0x8D\"");
    assert_int_equal(etag_parse("\"\"", 2, out), 0);
    assert_int_equal(etag_parse("W/\"x\"", 5, out), -EINVAL);
    assert_int_equal(etag_parse("x", 1, out), -EINVAL);
    assert_int_equal(etag_parse("\"", 1, out), -EINVAL);
    assert_int_equal(etag_parse("\"a\"b\"", 5, out), -EINVAL);
    assert_int_equal(etag_parse("\"a\nb\"", 5, out), -EINVAL);
    memset(longest, 'x', sizeof(longest));
    longest[0] = longest[ETAG_MAX - 2] = longest[ETAG_MAX - 1] = '"';
    assert_int_equal(etag_parse(longest, ETAG_MAX - 1, out), 0);
    assert_int_equal(etag_parse(longest, ETAG_MAX, out), -EINVAL);
}

static void test_uint(void **state)
{
    uint64_t v;

    assert_int_equal(header_uint_parse(" 42\r\n", 5, &v), 0);
    assert_true(v == 42);
    assert_int_equal(header_uint_parse("4x", 2, &v), -EINVAL);
    assert_int_equal(header_uint_parse("", 0, &v), -EINVAL);
    assert_int_equal(header_uint_parse("-1", 2, &v), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_content_range),
        cmocka_unit_test(test_content_range_refused),
        cmocka_unit_test(test_etag),
        cmocka_unit_test(test_uint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
