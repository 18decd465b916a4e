/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "common/percent.h"

static void check(const char *in, const char *keep, const char *expected)
{
    char out[256];
    size_t n = 0;

    out[0] = '\0';
    for (const char *p = in; *p; p++)
        n += tb_percent_encode_char(*p, keep, out + n);
    assert_string_equal(out, expected);
    assert_int_equal(n, strlen(expected));
}

static void test_unreserved_and_kept_bytes_stay(void **state)
{
    check("", "", "");
    check("azAZ09-._~", "", "azAZ09-._~");
    check("a/b+c", "/", "a/b%2Bc");
    check("a/b+c", "", "a%2Fb%2Bc");
}

static void test_every_other_byte_is_encoded(void **state)
{
    check(" %&=?#", "", "%20%25%26%3D%3F%23");
    check("\x01\x7f\xc3\xa4\xff", "", "%01%7F%C3%A4%FF");
    check("@[`{:", "", "%40%5B%60%7B%3A");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unreserved_and_kept_bytes_stay),
        cmocka_unit_test(test_every_other_byte_is_encoded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
