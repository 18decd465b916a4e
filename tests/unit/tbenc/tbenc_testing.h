/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of libtbenc share: memory files, sealed samples, pattern plaintext. Functions fail the test
 * themselves. */
#ifndef TBENC_TESTING_H
#define TBENC_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tbenc/internal.h"
#include "common/io.h"
#include "common/secret.h"
#include "tbenc/tbenc.h"

static const uint8_t test_key[TBENC_KEY_BYTES] = "0123456789abcdef0123456789abcde";
static const uint8_t test_prefix[4] = {1, 2, 3, 4};

struct blob {
    uint8_t *p;
    size_t n;
};

static _unused_ struct blob blob_new(size_t n)
{
    struct blob b = {.p = malloc(n + 1), .n = n};

    assert_non_null(b.p);
    return b;
}

static _unused_ void blob_free(struct blob *b)
{
    free(b->p);
    *b = (struct blob){0};
}
#define _cleanup_blob_ _cleanup_(blob_free)

/* Bytes that repeat only after a long while, so that a misplaced chunk shows. */
static _unused_ struct blob blob_pattern(size_t n, uint32_t seed)
{
    struct blob b = blob_new(n);
    uint64_t x = seed + 88172645463325252ULL;

    for (size_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        b.p[i] = (uint8_t)(x >> 24);
    }
    return b;
}

static _unused_ int memfd_empty(void)
{
    int fd = memfd_create("test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* A memory file with these bytes, at its start. */
static _unused_ int memfd_of(const void *p, size_t n)
{
    int fd = memfd_empty();

    assert_int_equal(tb_pwrite_full(fd, p, n, 0), 0);
    return fd;
}

static _unused_ struct blob memfd_bytes(int fd)
{
    struct stat st;
    struct blob b;

    assert_int_equal(fstat(fd, &st), 0);
    b = blob_new((size_t)st.st_size);
    assert_int_equal(tb_pread_full(fd, b.p, b.n, 0), (ssize_t)b.n);
    return b;
}

static _unused_ void assert_blob_equal(const struct blob *a, const struct blob *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(memcmp(a->p, b->p, a->n), 0);
}

/* A sealed single-file asset in memory. */
struct sample {
    struct tbenc_manifest *m;
    struct blob pt, ct;
};

static _unused_ void sample_free(struct sample *s)
{
    s->m = tbenc_manifest_free(s->m);
    blob_free(&s->pt);
    blob_free(&s->ct);
}
#define _cleanup_sample_ _cleanup_(sample_free)

static _unused_ struct sample sample_seal(size_t n, uint32_t chunk_bytes, unsigned threads)
{
    struct sample s = {.pt = blob_pattern(n, 1)};
    _cleanup_close_ int in_fd = memfd_of(s.pt.p, n), out_fd = memfd_empty();
    struct tbenc_input in = {.fd = in_fd, .bytes = n};
    struct tbenc_seal_params p = {.key = test_key,
                                  .chunk_bytes = chunk_bytes,
                                  .threads = threads,
                                  .nonce_prefix = test_prefix,
                                  .asset_id = "sample",
                                  .weights_filename = "model.tbenc"};
    struct tbenc_error e = {0};
    int r = tbenc_seal(&p, &in, 1, false, out_fd, &s.m, &e);

    if (r < 0)
        fail_msg("tbenc_seal: %d %s", r, e.message);
    s.ct = memfd_bytes(out_fd);
    return s;
}

#endif
