/* SPDX-License-Identifier: Apache-2.0 */
/* What is sealed opens to the same bytes, in every size around the edges, with every number of threads,
 * through files, pipes and tables; and the sealed bytes do not depend on the number of threads. */
#include "tbenc_testing.h"

#include <pthread.h>
#include <sys/wait.h>

static void check_open(const struct sample *s, unsigned threads)
{
    _cleanup_close_ int in = memfd_of(s->ct.p, s->ct.n), a = memfd_empty(), b = memfd_empty();
    struct tbenc_open_params p = {
        .manifest = s->m, .key = test_key, .threads = threads, .flags = TBENC_CHECK_SHA256};
    struct tbenc_error e = {0};

    assert_int_equal(tbenc_open_stream(&p, in, a, &e), 0);
    p.flags = 0;
    assert_int_equal(tbenc_open_files(&p, in, &b, 1, &e), 0);
    assert_int_equal(tbenc_verify(&p, in, &e), 0);
    _cleanup_blob_ struct blob x = memfd_bytes(a), y = memfd_bytes(b);
    assert_blob_equal(&x, &s->pt);
    assert_blob_equal(&y, &s->pt);
}

static void test_sizes_and_threads(void **state)
{
    static const size_t sizes[] = {0, 1, 1023, 1024, 1025, 10 * 1024, 1 << 20, (3 << 20) + 17};
    static const uint32_t chunks[] = {1024, 4096, 1 << 20, 4 << 20};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        for (size_t j = 0; j < ARRAY_SIZE(chunks); j++) {
            _cleanup_sample_ struct sample one = sample_seal(sizes[i], chunks[j], 1);

            assert_int_equal(one.ct.n, tbenc_manifest_ciphertext_bytes(one.m));
            for (unsigned threads = 1; threads <= 5; threads += 2) {
                _cleanup_sample_ struct sample s = sample_seal(sizes[i], chunks[j], threads);

                assert_blob_equal(&s.ct, &one.ct);
                check_open(&s, threads);
            }
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sizes_and_threads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
