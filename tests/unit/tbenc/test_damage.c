/* SPDX-License-Identifier: Apache-2.0 */
/* Each kind of damage is refused with -EBADMSG and names the first damaged chunk, whatever the number of
 * threads and the way of opening; nothing of the damaged chunk comes out. */
#include "tbenc_testing.h"

#include <pthread.h>
#include <signal.h>

/* Small records travel many in a batch, large ones are read in pieces: each test runs with both. */
static const uint32_t small = 1024, large = 600 * 1000;
static uint32_t chunk_size;
static const char *reason; /* what each message must say, or NULL */

#define CHUNK ((size_t)chunk_size)
#define RECORD (CHUNK + TBENC_RECORD_OVERHEAD)
#define N_RECORDS 5 /* four full, one of 100 bytes */
#define SIZE (4 * CHUNK + 100)
#define AT(i) (TBENC_HEADER_BYTES + (size_t)(i)*RECORD)

static int set_chunk_size(void **state)
{
    chunk_size = *(const uint32_t *)*state;
    reason = NULL;
    return 0;
}

struct feeder {
    int fd;
    const struct blob *b;
};

static void *feed(void *arg)
{
    struct feeder *f = arg;

    (void)tb_write_full(f->fd, f->b->p, f->b->n); /* the reader may stop early */
    close(f->fd);
    return NULL;
}

/* Opens through a pipe as input, so that reading in sequence is what fails. */
static int open_piped(const struct tbenc_open_params *p, const struct blob *ct, int out,
                      struct tbenc_error *e)
{
    struct feeder f = {.b = ct};
    pthread_t t;
    int fds[2], r;

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    f.fd = fds[1];
    assert_int_equal(pthread_create(&t, NULL, feed, &f), 0);
    r = tbenc_open_stream(p, fds[0], out, e);
    close(fds[0]);
    pthread_join(t, NULL);
    return r;
}

static void assert_refused(int r, const struct tbenc_error *e, uint64_t chunk)
{
    if (r != -EBADMSG || e->chunk != chunk || !e->message[0])
        fail_msg("got %d, chunk %lld, \"%s\"; want chunk %lld", r, (long long)e->chunk, e->message,
                 (long long)chunk);
    if (reason)
        assert_non_null(strstr(e->message, reason));
    if (chunk != TBENC_NO_CHUNK) {
        _cleanup_free_ char *want = tb_strf("chunk %llu:", (unsigned long long)chunk);

        assert_int_equal(strncmp(e->message, want, strlen(want)), 0);
    }
}

/* No byte of chunk is in the output, and in a stream none of a later one. (Files are filled in parallel.) */
static void assert_no_leak(int fd, const struct sample *s, uint64_t chunk, bool stream)
{
    size_t from = chunk == TBENC_NO_CHUNK ? 0 : (size_t)chunk * CHUNK;
    size_t end = stream || chunk == TBENC_NO_CHUNK ? SIZE_MAX : from + CHUNK;
    _cleanup_blob_ struct blob out = memfd_bytes(fd);

    for (size_t i = from; i + 16 <= MIN(MIN(out.n, s->pt.n), end); i += 16)
        assert_int_not_equal(memcmp(out.p + i, s->pt.p + i, 16), 0);
}

static void check_all_ways(const struct sample *s, const struct blob *ct, uint64_t chunk)
{
    for (unsigned threads = 1; threads <= 4; threads += CHUNK > 1024 ? 2 : 1) {
        _cleanup_close_ int in = memfd_of(ct->p, ct->n), a = memfd_empty(), b = memfd_empty(),
                            c = memfd_empty();
        struct tbenc_open_params p = {.manifest = s->m, .key = test_key, .threads = threads};
        struct tbenc_error e = {0};

        assert_refused(tbenc_open_stream(&p, in, a, &e), &e, chunk);
        assert_no_leak(a, s, chunk, true);
        memset(&e, 0, sizeof(e));
        assert_refused(tbenc_open_files(&p, in, &b, 1, &e), &e, chunk);
        assert_no_leak(b, s, chunk, false);
        memset(&e, 0, sizeof(e));
        assert_refused(open_piped(&p, ct, c, &e), &e, chunk);
        assert_no_leak(c, s, chunk, true);
        memset(&e, 0, sizeof(e));
        assert_refused(tbenc_verify(&p, in, &e), &e, chunk);
    }
}

static struct blob copy(const struct blob *b)
{
    struct blob c = blob_new(b->n);

    memcpy(c.p, b->p, b->n);
    return c;
}

static void check_flip(const struct sample *s, size_t at, uint64_t chunk)
{
    for (unsigned bit = 0; bit < 8; bit += 7) {
        _cleanup_blob_ struct blob ct = copy(&s->ct);

        ct.p[at] ^= (uint8_t)(1U << bit);
        check_all_ways(s, &ct, chunk);
    }
}

static void test_flip_in_header(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);

    for (size_t at = 0; at < TBENC_HEADER_BYTES; at++) /* 15..18: the nonce prefix is seen at the first tag */
        if (CHUNK == small || at % 5 == 0)
            check_flip(&s, at, at >= 15 && at < 19 ? 0 : TBENC_NO_CHUNK);
}

static void test_flip_in_records(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);

    for (uint64_t i = 0; i < N_RECORDS; i++) {
        size_t len = i < 4 ? CHUNK : 100;

        for (size_t at = 0; at < 4; at++)
            check_flip(&s, AT(i) + at, i);
        check_flip(&s, AT(i) + 4, i);
        check_flip(&s, AT(i) + 4 + len / 2, i);
        check_flip(&s, AT(i) + 4 + len, i);
        check_flip(&s, AT(i) + 4 + len + 15, i);
    }
}

/* A new file from the header and these records of the sample, in this order. */
static struct blob rearranged(const struct sample *s, const unsigned *order, size_t n)
{
    struct blob b = blob_new(TBENC_HEADER_BYTES + n * RECORD);

    memcpy(b.p, s->ct.p, TBENC_HEADER_BYTES);
    b.n = TBENC_HEADER_BYTES;
    for (size_t i = 0; i < n; i++) {
        size_t len = order[i] < 4 ? RECORD : 100 + TBENC_RECORD_OVERHEAD;

        memcpy(b.p + b.n, s->ct.p + AT(order[i]), len);
        b.n += len;
    }
    return b;
}

#define CHECK_ORDER(s, chunk, ...)                                                                           \
    do {                                                                                                     \
        unsigned order[] = {__VA_ARGS__};                                                                    \
        _cleanup_blob_ struct blob b = rearranged(s, order, ARRAY_SIZE(order));                              \
        check_all_ways(s, &b, chunk);                                                                        \
    } while (0)

static void test_rearranged(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);

    CHECK_ORDER(&s, 1, 0, 2, 1, 3, 4);    /* swapped */
    CHECK_ORDER(&s, 0, 1, 2, 3, 4);       /* first dropped */
    CHECK_ORDER(&s, 2, 0, 1, 3, 4);       /* one dropped */
    CHECK_ORDER(&s, 4, 0, 1, 2, 3);       /* last dropped: cut at a record boundary */
    CHECK_ORDER(&s, 2, 0, 1);             /* several */
    CHECK_ORDER(&s, 3, 0, 1, 2, 2, 3, 4); /* duplicated */
    CHECK_ORDER(&s, 2, 0, 1, 4, 2, 3);    /* the short record in the middle */
    CHECK_ORDER(&s, 5, 0, 1, 2, 3, 4, 4); /* trailing record */
    CHECK_ORDER(&s, 5, 0, 1, 2, 3, 4, 0);
}

static void test_truncated(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    const size_t cuts[] = {0, 1, 3, 4, 5, 4 + CHUNK - 1, 4 + CHUNK, 4 + CHUNK + 15};

    reason = "cut short";
    for (uint64_t i = 0; i < 4; i++)
        for (size_t j = 0; j < ARRAY_SIZE(cuts); j++) {
            struct blob b = {.p = s.ct.p, .n = AT(i) + cuts[j]};

            check_all_ways(&s, &b, i);
        }
    for (size_t n = 0; n < TBENC_HEADER_BYTES; n += 31) {
        struct blob b = {.p = s.ct.p, .n = n};

        check_all_ways(&s, &b, TBENC_NO_CHUNK);
    }
}

static void test_trailing_bytes(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    _cleanup_blob_ struct blob b = blob_new(s.ct.n + 1);

    memcpy(b.p, s.ct.p, s.ct.n);
    b.p[s.ct.n] = 0;
    check_all_ways(&s, &b, N_RECORDS);
}

static void test_oversized_length(void **state)
{
    const uint32_t lengths[] = {0, chunk_size + 1, 64 << 20, UINT32_MAX};
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        _cleanup_blob_ struct blob b = copy(&s.ct);

        tbenc_put32(b.p + AT(2), lengths[i]);
        check_all_ways(&s, &b, 2);
    }
}

/* The lowest damaged chunk is named even when a later one, or the end, is noticed first. */
static void test_lowest_wins(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal((8 << 20) + 5, 4096, 2);
    _cleanup_blob_ struct blob b = copy(&s.ct);
    const size_t record = 4096 + TBENC_RECORD_OVERHEAD;

    b.n -= 3;
    for (uint64_t i = 2048; i >= 700; i -= 337) {
        b.p[TBENC_HEADER_BYTES + i * record + (i == 2048 ? 5 : 50)] ^= 1;
        for (unsigned threads = 1; threads <= 4; threads++) {
            _cleanup_close_ int in = memfd_of(b.p, b.n), out = memfd_empty();
            struct tbenc_open_params p = {.manifest = s.m, .key = test_key, .threads = threads};
            struct tbenc_error e = {0};

            assert_refused(tbenc_open_stream(&p, in, out, &e), &e, i);
            assert_refused(tbenc_open_files(&p, in, &out, 1, &e), &e, i);
            assert_refused(open_piped(&p, &b, out, &e), &e, i);
        }
    }
}

static void test_wrong_key(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    _cleanup_close_ int in = memfd_of(s.ct.p, s.ct.n), out = memfd_empty();
    uint8_t key[TBENC_KEY_BYTES];
    struct tbenc_open_params p = {.manifest = s.m, .key = key, .threads = 2};
    struct tbenc_error e = {0};

    memcpy(key, test_key, sizeof(key));
    key[31] ^= 1;
    assert_refused(tbenc_open_stream(&p, in, out, &e), &e, 0);
    assert_no_leak(out, &s, 0, true);
    assert_refused(tbenc_open_files(&p, in, &out, 1, &e), &e, 0);
    assert_refused(tbenc_verify(&p, in, &e), &e, 0);
    p.key = NULL;
    assert_int_equal(tbenc_verify(&p, in, &e), 0);
    assert_int_equal(tbenc_open_stream(&p, in, out, &e), -EINVAL);
}

/* A manifest that tells another story than the file. */
static void test_wrong_manifest(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    _cleanup_close_ int in = memfd_of(s.ct.p, s.ct.n), out = memfd_empty();
    struct tbenc_manifest m = *s.m;
    struct tbenc_open_params p = {.manifest = &m, .key = test_key, .threads = 2};
    struct tbenc_error e = {0};

    m.chunk_bytes = 2 * chunk_size;
    assert_refused(tbenc_open_stream(&p, in, out, &e), &e, TBENC_NO_CHUNK);
    m = *s.m;
    m.plaintext_bytes = 4 * CHUNK; /* as if cut at a record boundary, and the manifest with it */
    assert_refused(tbenc_open_stream(&p, in, out, &e), &e, 4);
    assert_int_equal(ftruncate(in, (off_t)AT(4)), 0);
    assert_refused(tbenc_open_stream(&p, in, out, &e), &e, TBENC_NO_CHUNK); /* tags_sha256 still knows */
    m.has_tags_sha256 = false;
    p.flags = TBENC_CHECK_SHA256;
    assert_refused(tbenc_open_files(&p, in, &out, 1, &e), &e,
                   TBENC_NO_CHUNK); /* and so does sha256_ciphertext */
    p.flags = 0;
    assert_int_equal(tbenc_open_stream(&p, in, out, &e),
                     0); /* a v1 manifest rewritten by an attacker: see SECURITY */
    assert_refused(tbenc_verify(&p, in, &e), &e, TBENC_NO_CHUNK);
    m = *s.m;
    m.plaintext_bytes = SIZE + 1;
    assert_refused(tbenc_open_stream(&p, in, out, &e), &e, 4);
}

static void test_lenient_header(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    _cleanup_close_ int in = memfd_of(s.ct.p, s.ct.n), out = memfd_empty();
    struct tbenc_open_params p = {.manifest = s.m, .key = test_key, .flags = TBENC_LENIENT};
    struct tbenc_header h;
    uint8_t head[TBENC_HEADER_BYTES];

    assert_int_equal(tb_pwrite_full(in, "x", 1, 31), 0);
    assert_int_equal(tbenc_open_stream(&p, in, out, NULL), 0);
    tbenc_header_format(&(struct tbenc_header){.chunk_bytes = 1}, head);
    assert_int_equal(tbenc_header_parse(head, sizeof(head), 0, &h, NULL), -EBADMSG);
    assert_int_equal(tbenc_header_parse(head, sizeof(head), TBENC_LENIENT, &h, NULL), 0);
    assert_int_equal(h.chunk_bytes, 1);
    tbenc_header_format(&(struct tbenc_header){.chunk_bytes = 0}, head);
    assert_int_equal(tbenc_header_parse(head, sizeof(head), TBENC_LENIENT, &h, NULL), -EBADMSG);
    tbenc_header_format(&(struct tbenc_header){.chunk_bytes = TBENC_CHUNK_BYTES_MAX + 1}, head);
    assert_int_equal(tbenc_header_parse(head, sizeof(head), TBENC_LENIENT, &h, NULL), -EBADMSG);
}

static void test_reader(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(SIZE, chunk_size, 2);
    _cleanup_close_ int in = -1;
    struct tbenc_open_params p = {.manifest = s.m, .key = test_key};
    struct tbenc_error e = {0};
    struct tbenc_reader *rd;
    static uint8_t buf[4 * 600 * 1000 + 100];

    s.ct.p[AT(3) + 10] ^= 1;
    in = memfd_of(s.ct.p, s.ct.n - 1);
    assert_int_equal(tbenc_reader_new(&p, in, &rd, &e), 0);
    assert_int_equal(tbenc_reader_pread(rd, buf, 3 * CHUNK, 0, &e), 3 * CHUNK);
    assert_memory_equal(buf, s.pt.p, 3 * CHUNK);
    assert_refused((int)tbenc_reader_pread(rd, buf, 10, 3 * CHUNK - 1, &e), &e, 3);
    assert_refused((int)tbenc_reader_pread(rd, buf, 10, 4 * CHUNK, &e), &e, 4);
    assert_int_equal(tbenc_reader_pread(rd, buf, 10, 5, &e), 10); /* it still serves what is sound */
    assert_memory_equal(buf, s.pt.p + 5, 10);
    tbenc_reader_free(rd);
}

#define WITH(test, size) cmocka_unit_test_prestate_setup_teardown(test, set_chunk_size, NULL, (void *)&size)
#define BOTH(test) WITH(test, small), WITH(test, large)

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(test_flip_in_header),
        BOTH(test_flip_in_records),
        BOTH(test_rearranged),
        BOTH(test_truncated),
        BOTH(test_trailing_bytes),
        BOTH(test_oversized_length),
        WITH(test_lowest_wins, small),
        BOTH(test_wrong_key),
        BOTH(test_wrong_manifest),
        WITH(test_lenient_header, small),
        BOTH(test_reader),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
