/* SPDX-License-Identifier: Apache-2.0 */
/* The manifest's checks, the names in TB_TARGET_DIR, memory, and the hash that follows a growing file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/io.h"
#include "hydrate/hasher.h"
#include "hydrate/source.h"
#include "hydrate/target.h"

static const char text[] =
    "{\"format\": \"tbenc/v1\", \"algo\": \"aes-256-gcm-chunked\", \"chunk_bytes\": 1024,"
    "\"plaintext_bytes\": 10, \"sha256_ciphertext\": "
    "\"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\","
    "\"asset_id\": \"a\", \"weights_filename\": \"model.tbenc\"}";

static int check(const struct hydrate_source *s, const char *asset, struct tb_outcome *o)
{
    struct tbenc_manifest *m = NULL;
    int r;

    o->code = 0;
    r = manifest_check(s, asset, text, strlen(text), &m, o);
    assert_true((r == 0) == (m != NULL));
    tbenc_manifest_free(m);
    return r;
}

static void test_manifest(void **state)
{
    struct hydrate_source s = {0};
    struct tb_outcome o;

    assert_int_equal(check(&s, "a", &o), 0);
    assert_int_equal(check(&s, "A", &o), TB_EXIT_DATAERR);
    assert_non_null(strstr(o.reason, "TB_ASSET_ID is A"));
    s.bound = true;
    assert_int_equal(check(&s, "a", &o), TB_EXIT_DATAERR);
    SHA256((const uint8_t *)text, strlen(text), s.manifest_sha256);
    assert_int_equal(check(&s, "a", &o), 0);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"model.manifest.json", "x.part",          "x.part.json",
                                      "x.part.live",         "x.verified.json", ".hidden"};

    assert_true(weights_name_free("model.tbenc"));
    assert_true(weights_name_free("x.party"));
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_false(weights_name_free(bad[i]));
}

static void test_meminfo(void **state)
{
    uint64_t n;

    assert_int_equal(meminfo_available("MemTotal: 9 kB\nMemAvailable:   12 kB\nX: 1 kB\n", &n), 0);
    assert_true(n == 12 * 1024);
    assert_int_equal(meminfo_available("MemTotal: 9 kB\nXMemAvailable: 12 kB\n", &n), -EINVAL);
    assert_int_equal(meminfo_available("MemAvailable: x kB\n", &n), -EINVAL);
    assert_int_equal(meminfo_available("MemAvailable: 18446744073709551615 kB\n", &n), -EINVAL);
    assert_int_equal(meminfo_available("", &n), -EINVAL);
}

static void test_memory(void **state)
{
    struct tb_outcome o = {0};

    assert_int_equal(target_check_memory(1, false, &o), 0);
    assert_int_equal(target_check_memory(1ULL << 60, false, &o), TB_EXIT_IOERR);
    assert_int_equal(target_check_memory(1ULL << 60, true, &o), TB_EXIT_IOERR);
    assert_non_null(strstr(o.reason, "in all"));
    assert_non_null(strstr(o.reason, "missing"));
    assert_non_null(strstr(o.reason, "1152921504606846976"));
}

static int wait_result(struct hasher *h, uint8_t ret[SHA256_BYTES])
{
    struct pollfd p = {.fd = hasher_fd(h), .events = POLLIN};

    assert_int_equal(poll(&p, 1, 20000), 1);
    return hasher_result(h, ret);
}

static void test_hasher_follows(void **state)
{
    enum { SIZE = 1000001 };
    _cleanup_close_ int fd = memfd_create("hasher", MFD_CLOEXEC);
    _cleanup_hasher_ struct hasher *h = NULL;
    _cleanup_free_ uint8_t *data = malloc(SIZE);
    uint8_t want[SHA256_BYTES], got[SHA256_BYTES];

    for (size_t i = 0; i < SIZE; i++)
        data[i] = (uint8_t)(i * 7 + i / 251);
    SHA256(data, SIZE, want);
    assert_int_equal(hasher_start(fd, SIZE, &h), 0);
    for (uint64_t off = 0; off < SIZE; off += 1000) {
        uint64_t n = MIN(1000ULL, SIZE - off);

        assert_int_equal(tb_pwrite_full(fd, data + off, n, off), 0);
        hasher_advance(h, off + n);
        hasher_advance(h, off / 2); /* never goes back */
    }
    assert_int_equal(wait_result(h, got), 0);
    assert_memory_equal(got, want, sizeof(want));
    assert_true(hasher_done(h) == SIZE);
}

static void test_hasher_short_file_and_early_end(void **state)
{
    _cleanup_close_ int fd = memfd_create("hasher", MFD_CLOEXEC);
    struct hasher *h = NULL;
    uint8_t got[SHA256_BYTES];

    assert_int_equal(hasher_start(fd, 10, &h), 0);
    hasher_advance(h, 10);
    assert_int_equal(wait_result(h, got), -ENODATA);
    h = hasher_free(h);
    assert_int_equal(hasher_start(fd, 10, &h), 0);
    assert_null(hasher_free(h)); /* waits for nothing */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_manifest),       cmocka_unit_test(test_names),
        cmocka_unit_test(test_meminfo),        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_hasher_follows), cmocka_unit_test(test_hasher_short_file_and_early_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
