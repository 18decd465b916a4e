/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/buf.h"

static void test_appends_in_order(void **state)
{
    _cleanup_buf_ struct tb_buf b = {0};

    tb_buf_puts(&b, "a");
    tb_buf_append(&b, "\0b", 2);
    tb_buf_printf(&b, "%d", 42);
    tb_buf_json_string(&b, "\"\x01\xff", 3);
    assert_int_equal(tb_buf_error(&b), 0);
    assert_int_equal(b.len, 21);
    assert_memory_equal(b.data, "a\0b42\"\\\"\\u0001\\u00ff\"", 21);
}

static void test_a_json_string_escapes_each_byte_wherever_it_stands(void **state)
{
    for (unsigned c = 0; c < 256; c++)
        for (size_t at = 0; at < 19; at++) {
            _cleanup_buf_ struct tb_buf b = {0}, want = {0};
            char text[] = "nineteen characters";

            text[at] = (char)c;
            tb_buf_json_string(&b, text, 19);
            tb_buf_append(&want, "\"", 1);
            tb_buf_append(&want, text, at);
            if (c == '"' || c == '\\')
                tb_buf_printf(&want, "\\%c", (int)c);
            else
                tb_buf_printf(&want, c < 0x20 || c >= 0x7f ? "\\u%04x" : "%c", c);
            tb_buf_append(&want, text + at + 1, 18 - at);
            tb_buf_append(&want, "\"", 1);
            assert_int_equal(b.len, want.len);
            assert_memory_equal(b.data, want.data, want.len);
        }
}

static void test_numbers_in_decimal_and_hex(void **state)
{
    static const uint64_t number[] = {0, 9, 10, 15, 16, 0xabcdef, UINT64_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(number); i++) {
        _cleanup_buf_ struct tb_buf b = {0};
        char want[48];

        tb_buf_uint(&b, number[i]);
        tb_buf_append(&b, " ", 1);
        tb_buf_hex(&b, number[i]);
        snprintf(want, sizeof(want), "%" PRIu64 " %" PRIx64, number[i], number[i]);
        assert_int_equal(b.len, strlen(want));
        assert_memory_equal(b.data, want, b.len);
    }
}

static void test_consume_takes_from_the_front(void **state)
{
    _cleanup_buf_ struct tb_buf b = {0};

    for (int i = 0; i < 1000; i++)
        tb_buf_puts(&b, "0123456789");
    tb_buf_consume(&b, 9995);
    assert_int_equal(b.len, 5);
    assert_memory_equal(b.data, "56789", 5);
    tb_buf_consume(&b, 5);
    assert_int_equal(b.len, 0);
}

static void test_a_secret_grows_and_stays_whole(void **state)
{
    _cleanup_buf_ struct tb_buf b = {.secret = true};

    for (int i = 0; i < 1000; i++)
        tb_buf_puts(&b, "0123456789");
    assert_int_equal(tb_buf_error(&b), 0);
    assert_int_equal(b.len, 10000);
    for (int i = 0; i < 1000; i++)
        assert_memory_equal(b.data + 10 * i, "0123456789", 10);
}

/* What does not fit leaves no part of it behind, and nothing later slips in. */
static void test_the_first_error_stays(void **state)
{
    _cleanup_buf_ struct tb_buf b = {.max = 4};

    assert_int_equal(tb_buf_puts(&b, "abc"), 0);
    assert_int_equal(tb_buf_puts(&b, "de"), -EFBIG);
    assert_int_equal(tb_buf_puts(&b, "d"), -EFBIG);
    assert_int_equal(tb_buf_append(&b, "", 0), -EFBIG);
    assert_int_equal(tb_buf_printf(&b, "%s", "d"), -EFBIG);
    assert_int_equal(tb_buf_json_string(&b, "", 0), -EFBIG);
    assert_int_equal(tb_buf_error(&b), -EFBIG);
    assert_int_equal(b.len, 3);
    assert_memory_equal(b.data, "abc", 3);
}

static void test_a_limit_is_the_last_byte(void **state)
{
    _cleanup_buf_ struct tb_buf b = {.max = 4};

    assert_int_equal(tb_buf_puts(&b, "abcd"), 0);
    assert_int_equal(tb_buf_puts(&b, "e"), -EFBIG);
}

static void test_a_size_beyond_memory_is_refused(void **state)
{
    _cleanup_buf_ struct tb_buf b = {0};

    tb_buf_puts(&b, "abc");
    assert_int_equal(tb_buf_reserve(&b, SIZE_MAX - 1), -EFBIG);
    assert_int_equal(b.len, 3);
}

static void test_printf_that_is_too_long_is_an_error(void **state)
{
    _cleanup_buf_ struct tb_buf b = {0};
    char text[600];

    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    assert_int_equal(tb_buf_printf(&b, "%s", text), -EOVERFLOW);
    assert_int_equal(tb_buf_puts(&b, "y"), -EOVERFLOW);
    assert_int_equal(b.len, 0);
}

static void test_numbers_in_decimal(void **state)
{
    _cleanup_buf_ struct tb_buf b = {0};

    tb_buf_uint(&b, 0);
    tb_buf_puts(&b, " ");
    tb_buf_uint(&b, 1234567890);
    tb_buf_puts(&b, " ");
    assert_int_equal(tb_buf_uint(&b, UINT64_MAX), 0);
    assert_int_equal(b.len, 33);
    assert_memory_equal(b.data, "0 1234567890 18446744073709551615", 33);
}

static void test_clear_forgets_the_error(void **state)
{
    _cleanup_buf_ struct tb_buf b = {.max = 2};

    tb_buf_puts(&b, "abc");
    assert_int_equal(tb_buf_error(&b), -EFBIG);
    tb_buf_clear(&b);
    assert_int_equal(tb_buf_puts(&b, "ab"), 0);
    assert_int_equal(b.len, 2);
    assert_int_equal(tb_buf_puts(&b, "c"), -EFBIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_appends_in_order),
        cmocka_unit_test(test_a_secret_grows_and_stays_whole),
        cmocka_unit_test(test_a_json_string_escapes_each_byte_wherever_it_stands),
        cmocka_unit_test(test_numbers_in_decimal_and_hex),
        cmocka_unit_test(test_consume_takes_from_the_front),
        cmocka_unit_test(test_the_first_error_stays),
        cmocka_unit_test(test_a_limit_is_the_last_byte),
        cmocka_unit_test(test_a_size_beyond_memory_is_refused),
        cmocka_unit_test(test_printf_that_is_too_long_is_an_error),
        cmocka_unit_test(test_numbers_in_decimal),
        cmocka_unit_test(test_clear_forgets_the_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
