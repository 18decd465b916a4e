/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <cmocka.h>

#include "common/io.h"
#include "common/hex.h"
#include "common/secret.h"

static void test_hex_round_trip_of_every_byte(void **state)
{
    for (unsigned v = 0; v < 256; v++) {
        uint8_t in = (uint8_t)v, out = 0;
        char hex[3], want[3];

        tb_hex_encode(&in, 1, hex);
        snprintf(want, sizeof(want), "%02x", v);
        assert_string_equal(hex, want);
        assert_int_equal(tb_hex_decode(hex, 2, &out, 1), 0);
        assert_int_equal(out, v);
        snprintf(hex, sizeof(hex), "%02X", v);
        assert_int_equal(tb_hex_decode(hex, 2, &out, 1), 0);
        assert_int_equal(out, v);
    }
}

static void test_hex_of_any_length(void **state)
{
    uint8_t in[12];
    char hex[2 * sizeof(in) + 2], want[2 * sizeof(in) + 1] = "";

    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)(i * 83 + 7);
    for (size_t n = 0; n <= sizeof(in); n++) {
        memset(hex, '!', sizeof(hex));
        tb_hex_encode(in, n, hex);
        assert_string_equal(hex, want);
        assert_int_equal(hex[2 * n + 1], '!');
        if (n < sizeof(in))
            snprintf(want + 2 * n, 3, "%02x", in[n]);
    }
}

static void test_hex_refuses_every_other_character(void **state)
{
    for (unsigned c = 0; c < 256; c++) {
        char hex[2] = {(char)c, '0'};
        uint8_t out = 0x55;
        int digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');

        assert_int_equal(tb_hex_decode(hex, 2, &out, 1), digit ? 0 : -EINVAL);
        assert_int_equal(tb_hex_digit((char)c), digit ? out >> 4 : -1);
        if (!digit)
            assert_int_equal(out, 0);
    }
    assert_int_equal(tb_hex_decode("0", 1, (uint8_t[1]){0}, 1), -EINVAL);
    assert_int_equal(tb_hex_decode("0011", 4, (uint8_t[1]){0}, 1), -EINVAL);
}

static int key_from(const char *bytes, size_t n, struct tb_key *k)
{
    char path[] = "/tmp/tb-key-XXXXXX";
    int fd = mkstemp(path), r;

    assert_int_equal(tb_write_full(fd, bytes, n), 0);
    close(fd);
    r = tb_key_read_file(path, k);
    unlink(path);
    return r;
}

static void test_key_files(void **state)
{
    static const char hex[] = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n";
    struct tb_key k, want;

    for (int i = 0; i < 32; i++)
        want.b[i] = (uint8_t)i;
    assert_int_equal(key_from(hex, 64, &k), 0);
    assert_memory_equal(&k, &want, 32);
    assert_int_equal(key_from(hex, 65, &k), 0);
    assert_int_equal(key_from((char *)want.b, 32, &k), 0);
    assert_memory_equal(&k, &want, 32);
    assert_int_equal(key_from(hex, 63, &k), -EINVAL);
    assert_int_equal(key_from(hex, 31, &k), -EINVAL);
    assert_int_equal(key_from("", 0, &k), -EINVAL);
    assert_int_equal(
        key_from("000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F\n000102030405060708090a0b",
                 80, &k),
        -EINVAL);
    assert_int_equal(tb_key_read_file("/nonexistent/key", &k), -ENOENT);
}

static void test_secret_memory_is_zeroed_and_not_dumpable(void **state)
{
    char *p = tb_secret_alloc(10000);

    assert_non_null(p);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(p[i], 0);
    memset(p, 7, 10000);
    tb_secret_free(p);
    tb_secret_free(NULL);
    tb_secret_init();
    assert_int_equal(prctl(PR_GET_DUMPABLE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hex_round_trip_of_every_byte),
        cmocka_unit_test(test_hex_of_any_length),
        cmocka_unit_test(test_hex_refuses_every_other_character),
        cmocka_unit_test(test_key_files),
        cmocka_unit_test(test_secret_memory_is_zeroed_and_not_dumpable),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
