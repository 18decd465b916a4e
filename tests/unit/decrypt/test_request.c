/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "decrypt/request.h"
#include "tbenc/tbenc.h"

static struct tb_deliver_request make(uint32_t mode, uint32_t n_fds)
{
    struct tb_deliver_request q = {.mode = mode, .n_fds = n_fds};

    memcpy(q.magic, TB_DELIVER_REQUEST_MAGIC, sizeof(q.magic));
    return q;
}

static void test_accepts_what_is_allowed(void **state)
{
    static const struct {
        uint32_t mode, n_fds;
        size_t here;
    } good[] = {
        {TB_DELIVER_FIFO, 1, 1}, {TB_DELIVER_VIEW, 1, 1},    {TB_DELIVER_S3, 1, 1},
        {TB_DELIVER_DIR, 1, 1},  {TB_DELIVER_DIR, 251, 250}, {TB_DELIVER_DIR, TBENC_FILES_MAX, 250},
    };

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct tb_deliver_request q = make(good[i].mode, good[i].n_fds), got = {0};
        char err[DECRYPT_REQUEST_ERR_MAX] = "";

        assert_int_equal(decrypt_request_parse(&q, sizeof(q), good[i].here, &got, err), 0);
        assert_memory_equal(&got, &q, sizeof(q));
    }
}

static void test_refuses_with_a_reason(void **state)
{
    static const struct {
        uint32_t mode, n_fds;
        size_t here;
    } bad[] = {
        {0, 1, 1},
        {5, 1, 1},
        {TB_DELIVER_S3, 2, 1},
        {UINT32_MAX, 1, 1},
        {TB_DELIVER_FIFO, 0, 0},
        {TB_DELIVER_FIFO, 2, 2},
        {TB_DELIVER_VIEW, 2, 2},
        {TB_DELIVER_FIFO, 1, 0},
        {TB_DELIVER_DIR, 0, 0},
        {TB_DELIVER_DIR, 4, 5},
        {TB_DELIVER_DIR, 4, 0},
        {TB_DELIVER_DIR, TBENC_FILES_MAX + 1, 250},
        {TB_DELIVER_DIR, UINT32_MAX, 250},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct tb_deliver_request q = make(bad[i].mode, bad[i].n_fds), got = {.mode = 77};
        char err[DECRYPT_REQUEST_ERR_MAX] = "";

        assert_int_equal(decrypt_request_parse(&q, sizeof(q), bad[i].here, &got, err), -EBADMSG);
        assert_true(strlen(err) > 10);
        assert_int_equal(got.mode, 77); /* written on success only */
    }
}

static void test_refuses_other_sizes_and_magics(void **state)
{
    struct tb_deliver_request q = make(TB_DELIVER_DIR, 1), got;
    char two[2 * sizeof(q)] = {0}, err[DECRYPT_REQUEST_ERR_MAX];

    memcpy(two, &q, sizeof(q));
    assert_int_equal(decrypt_request_parse(two, 0, 1, &got, err), -EBADMSG);
    assert_int_equal(decrypt_request_parse(two, sizeof(q) - 1, 1, &got, err), -EBADMSG);
    assert_int_equal(decrypt_request_parse(two, sizeof(q) + 1, 1, &got, err), -EBADMSG);
    for (size_t i = 0; i < sizeof(q.magic); i++) {
        struct tb_deliver_request other = q;

        other.magic[i] ^= 1;
        assert_int_equal(decrypt_request_parse(&other, sizeof(other), 1, &got, err), -EBADMSG);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts_what_is_allowed),
        cmocka_unit_test(test_refuses_with_a_reason),
        cmocka_unit_test(test_refuses_other_sizes_and_magics),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
