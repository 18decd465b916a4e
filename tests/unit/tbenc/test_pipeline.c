/* SPDX-License-Identifier: Apache-2.0 */
/* Tables, pipes and the ways in which work stops early: whatever happens, no thread is left and the first
 * reason is told. */
#include "tbenc_testing.h"

#include <dirent.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static unsigned count_threads(void)
{
    DIR *d = opendir("/proc/self/task");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* The kernel may list a joined thread for a moment. */
static void assert_no_threads_left(unsigned before)
{
    for (int i = 0; i < 2000 && count_threads() > before; i++)
        usleep(1000);
    assert_int_equal(count_threads(), before);
}

/* -- tables ---------------------------------------------------------------------------------------------- */
#define N_FILES 6
static const char *const paths[N_FILES] = {"a", "b/config.json", "b/x.gguf", "c", "d", "e"};
static const size_t sizes[N_FILES] = {0, 17, 3 * 4096 + 1, 4096, 0, (1 << 20) + 9};

static struct tbenc_manifest *seal_table(unsigned threads, int out_fd, struct blob pt[N_FILES])
{
    struct tbenc_input in[N_FILES];
    struct tbenc_seal_params p = {.key = test_key,
                                  .chunk_bytes = 4096,
                                  .threads = threads,
                                  .nonce_prefix = test_prefix,
                                  .asset_id = "table",
                                  .weights_filename = "model.tbenc",
                                  .allow_finetune = true};
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};

    for (uint32_t i = 0; i < N_FILES; i++) {
        pt[i] = blob_pattern(sizes[i], i);
        /* every other one with its size unknown */
        in[i] = (struct tbenc_input){.fd = memfd_of(pt[i].p, pt[i].n),
                                     .path = paths[i],
                                     .mode = 0600 + i,
                                     .bytes = i % 2 ? sizes[i] : UINT64_MAX};
    }
    if (tbenc_seal(&p, in, N_FILES, true, out_fd, &m, &e) < 0)
        fail_msg("%s", e.message);
    for (size_t i = 0; i < N_FILES; i++)
        close(in[i].fd);
    return m;
}

/* Through its text, as it travels. */
static struct tbenc_manifest *reparsed(struct tbenc_manifest *m)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_manifest *n = NULL;
    size_t len;

    assert_int_equal(tbenc_manifest_format(m, &text, &len), 0);
    tbenc_manifest_free(m);
    assert_int_equal(tbenc_manifest_parse(text, len, 0, &n, NULL), 0);
    return n;
}

static void check_table(const struct tbenc_manifest *m, int ct, const struct blob pt[N_FILES],
                        unsigned threads)
{
    struct tbenc_open_params p = {.manifest = m, .key = test_key, .threads = threads};
    struct tbenc_error e = {0};
    _cleanup_close_ int all = memfd_empty();
    int out[N_FILES];
    size_t at = 0;

    for (size_t i = 0; i < N_FILES; i++)
        out[i] = memfd_of("to be replaced", 14);
    if (tbenc_open_files(&p, ct, out, N_FILES, &e) < 0)
        fail_msg("%s", e.message);
    assert_int_equal(lseek(ct, 0, SEEK_SET), 0); /* a stream is read from where it stands */
    assert_int_equal(tbenc_open_stream(&p, ct, all, &e), 0);
    assert_int_equal(tbenc_verify(&p, ct, &e), 0);
    assert_int_equal(tbenc_open_files(&p, ct, out, N_FILES - 1, &e), -EINVAL);
    _cleanup_blob_ struct blob stream = memfd_bytes(all);
    for (size_t i = 0; i < N_FILES; i++) {
        _cleanup_blob_ struct blob b = memfd_bytes(out[i]);

        assert_blob_equal(&b, &pt[i]);
        assert_int_equal(memcmp(stream.p + at, pt[i].p, pt[i].n), 0);
        at += pt[i].n;
        close(out[i]);
    }
    assert_int_equal(stream.n, at);
}

static void test_table(void **state)
{
    _cleanup_blob_ struct blob first = {0};

    for (unsigned threads = 1; threads <= 4; threads++) {
        _cleanup_close_ int ct = memfd_empty();
        struct blob pt[N_FILES];
        struct tbenc_manifest *m = reparsed(seal_table(threads, ct, pt));
        _cleanup_blob_ struct blob bytes = memfd_bytes(ct);

        if (!first.p)
            first = memfd_bytes(ct);
        assert_blob_equal(&bytes, &first);
        assert_int_equal(m->n_files, N_FILES);
        for (size_t i = 0; i < N_FILES; i++) {
            uint8_t digest[TBENC_SHA256_BYTES];

            SHA256(pt[i].p, pt[i].n, digest);
            assert_memory_equal(m->files[i].sha256, digest, sizeof(digest));
            assert_int_equal(m->files[i].bytes, sizes[i]);
            assert_int_equal(m->files[i].mode, 0600 + i);
        }
        check_table(m, ct, pt, threads);
        tbenc_manifest_free(m);
        for (size_t i = 0; i < N_FILES; i++)
            blob_free(&pt[i]);
    }
}

/* verify, with a key, recomputes the hashes of the table. */
static void test_table_hash_mismatch(void **state)
{
    _cleanup_close_ int ct = memfd_empty();
    struct blob pt[N_FILES];
    struct tbenc_manifest *m = seal_table(2, ct, pt);
    struct tbenc_open_params p = {.manifest = m, .key = test_key};
    struct tbenc_error e = {0};

    m->files[4].sha256[31] ^= 1;
    assert_int_equal(tbenc_verify(&p, ct, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "\"d\""));
    tbenc_manifest_free(m);
    for (size_t i = 0; i < N_FILES; i++)
        blob_free(&pt[i]);
}

/* -- pipes ----------------------------------------------------------------------------------------------- */
struct reader {
    int fd;
    size_t piece;
    struct blob got;
};

static void *read_all(void *arg)
{
    struct reader *r = arg;

    for (;;) {
        ssize_t k = read(r->fd, r->got.p + r->got.n, r->piece);

        if (k <= 0)
            break;
        r->got.n += (size_t)k;
    }
    close(r->fd);
    return NULL;
}

static void check_pipe(const struct sample *s, unsigned threads, size_t piece, unsigned flags, int pipe_flags)
{
    _cleanup_close_ int in = memfd_of(s->ct.p, s->ct.n);
    struct tbenc_open_params p = {.manifest = s->m, .key = test_key, .threads = threads, .flags = flags};
    struct reader rd = {.piece = piece, .got = blob_new(s->pt.n + piece)};
    struct tbenc_error e = {0};
    pthread_t t;
    int fds[2];

    rd.got.n = 0;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(fcntl(fds[1], F_SETFL, pipe_flags), 0);
    rd.fd = fds[0];
    assert_int_equal(pthread_create(&t, NULL, read_all, &rd), 0);
    if (tbenc_open_stream(&p, in, fds[1], &e) < 0)
        fail_msg("%s", e.message);
    close(fds[1]);
    pthread_join(t, NULL);
    assert_blob_equal(&rd.got, &s->pt);
    blob_free(&rd.got);
}

/* Pages are lent to the pipe: a reader of any pace must see each byte, also those that lie in the pipe at the
 * end. */
static void test_pipe_out(void **state)
{
    static const uint32_t chunks[] = {1024, 300 * 1000, 1 << 20, 4 << 20};

    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        /* long enough for the ring to go round */
        _cleanup_sample_ struct sample s =
            sample_seal((chunks[i] > 1 << 20 ? 41 << 20 : 13 << 20) + 4321, chunks[i], 2);

        check_pipe(&s, 2, 1 << 20, 0, 0);
        check_pipe(&s, 1, 64 * 1024, 0, 0);
        check_pipe(&s, 3, 4097, 0, O_NONBLOCK);
        check_pipe(&s, 2, 1 << 16, TBENC_COPY_TO_PIPE, 0);
        check_pipe(&s, 2, 1 << 16, TBENC_CHECK_SHA256, 0);
    }
}

static void test_pipe_of_a_table(void **state)
{
    _cleanup_close_ int ct = memfd_empty();
    struct blob pt[N_FILES];
    struct tbenc_manifest *m = seal_table(2, ct, pt);
    struct sample s = {.m = m, .pt = blob_new(1100 * 1000), .ct = memfd_bytes(ct)};

    s.pt.n = 0;
    for (size_t i = 0; i < N_FILES; i++) {
        memcpy(s.pt.p + s.pt.n, pt[i].p, pt[i].n);
        s.pt.n += pt[i].n;
        blob_free(&pt[i]);
    }
    check_pipe(&s, 2, 1 << 16, 0, 0);
    sample_free(&s);
}

/* -- stopping early -------------------------------------------------------------------------------------- */
static void test_reader_goes_away(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(8 << 20, 64 * 1024, 2);
    unsigned before = count_threads();

    for (unsigned threads = 1; threads <= 4; threads++) {
        _cleanup_close_ int in = memfd_of(s.ct.p, s.ct.n);
        struct tbenc_open_params p = {.manifest = s.m, .key = test_key, .threads = threads};
        struct tbenc_error e = {0};
        int fds[2];

        assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
        close(fds[0]);
        assert_int_equal(tbenc_open_stream(&p, in, fds[1], &e), -EPIPE);
        assert_non_null(strstr(e.message, "the reader went away"));
        close(fds[1]);
    }
    assert_no_threads_left(before);
}

struct stalled {
    int fd, done_fd, other_end;
    const struct sample *s;
    atomic_bool written;
};

/* Writes three records of four, then holds the pipe open until it is told that the other side is done. */
static void *feed_and_stall(void *arg)
{
    struct stalled *st = arg;
    char c;

    (void)tb_write_full(st->fd, st->s->ct.p, st->s->ct.n - (1 << 20));
    atomic_store(&st->written, true);
    (void)tb_read_full(st->done_fd, &c, 1);
    close(st->fd);
    return NULL;
}

/* Cancels once all that was written has been read, so that the next read waits for ever. */
static int cancel_when_dry(void *ctx, uint64_t done, uint64_t total)
{
    struct stalled *st = ctx;
    int left = 1;

    while (!atomic_load(&st->written) || (ioctl(st->other_end, FIONREAD, &left) == 0 && left > 0))
        usleep(1000);
    return 1;
}

/* The input's writer stalls: stopping for another reason must not wait for it. */
static void test_stalled_input(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(4 << 20, 1 << 20, 2);
    _cleanup_close_ int out = memfd_empty();
    struct stalled st = {.s = &s};
    struct tbenc_open_params p = {
        .manifest = s.m, .key = test_key, .threads = 3, .progress = cancel_when_dry, .progress_ctx = &st};
    struct tbenc_error e = {0};
    unsigned before = count_threads();
    int in[2], done[2];
    pthread_t t;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(done, O_CLOEXEC), 0);
    st.fd = in[1];
    st.other_end = in[0];
    st.done_fd = done[0];
    assert_int_equal(pthread_create(&t, NULL, feed_and_stall, &st), 0);
    alarm(30);
    assert_int_equal(tbenc_open_stream(&p, in[0], out, &e), -ECANCELED);
    alarm(0);
    close(in[0]);
    close(done[1]);
    pthread_join(t, NULL);
    close(done[0]);
    assert_no_threads_left(before);
}

static int stop_after(void *ctx, uint64_t done, uint64_t total)
{
    uint64_t *left = ctx;

    return (*left)-- == 0;
}

static void test_cancel(void **state)
{
    _cleanup_sample_ struct sample s = sample_seal(16 << 20, 64 * 1024, 2);
    unsigned before = count_threads();

    for (uint64_t after = 0; after < 12; after++) {
        _cleanup_close_ int in = memfd_of(s.ct.p, s.ct.n), out = memfd_empty();
        uint64_t left = after;
        struct tbenc_open_params p = {
            .manifest = s.m, .key = test_key, .threads = 3, .progress = stop_after, .progress_ctx = &left};
        struct tbenc_error e = {0};

        assert_int_equal(tbenc_open_stream(&p, in, out, &e), -ECANCELED);
        left = after;
        assert_int_equal(tbenc_open_files(&p, in, &out, 1, &e), -ECANCELED);
        left = after;
        assert_int_equal(tbenc_verify(&p, in, &e), -ECANCELED);
    }
    assert_no_threads_left(before);
}

static struct tbenc_seal_params seal_params(void)
{
    return (struct tbenc_seal_params){.key = test_key,
                                      .chunk_bytes = 1024,
                                      .threads = 3,
                                      .asset_id = "x",
                                      .weights_filename = "model.tbenc"};
}

static int seal_one(const struct tbenc_seal_params *p, int in_fd, uint64_t bytes, int out_fd,
                    struct tbenc_error *e)
{
    struct tbenc_input in = {.fd = in_fd, .bytes = bytes, .path = "weights.bin", .mode = 0644};
    struct tbenc_manifest *m = NULL;
    int r = tbenc_seal(p, &in, 1, false, out_fd, &m, e);

    tbenc_manifest_free(m);
    return r;
}

static void test_seal_failures(void **state)
{
    _cleanup_blob_ struct blob b = blob_pattern(5 << 20, 3);
    _cleanup_close_ int in = memfd_of(b.p, b.n), out = memfd_empty(),
                        full = open("/dev/full", O_WRONLY | O_CLOEXEC), dir = open("/", O_RDONLY | O_CLOEXEC);
    struct tbenc_seal_params p = seal_params();
    struct tbenc_error e = {0};
    unsigned before = count_threads();

    assert_int_equal(seal_one(&p, in, b.n, full, &e), -ENOSPC);
    assert_int_equal(seal_one(&p, dir, UINT64_MAX, out, &e), -EISDIR);
    assert_non_null(strstr(e.message, "weights.bin"));
    assert_int_equal(lseek(in, 0, SEEK_SET), 0);
    assert_int_equal(seal_one(&p, in, b.n + 1, out, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "weights.bin: ends after"));
    assert_int_equal(lseek(in, 0, SEEK_SET), 0);
    assert_int_equal(seal_one(&p, in, b.n - 1, out, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "longer than"));
    p.chunk_bytes = 1023;
    assert_int_equal(seal_one(&p, in, 0, out, &e), -EINVAL);
    p.chunk_bytes = TBENC_CHUNK_BYTES_MAX + 1;
    assert_int_equal(seal_one(&p, in, 0, out, &e), -EINVAL);
    p = seal_params();
    p.asset_id = "a/b";
    assert_int_equal(seal_one(&p, in, 0, out, &e), -EINVAL);
    p = seal_params();
    p.weights_filename = "../x";
    assert_int_equal(seal_one(&p, in, 0, out, &e), -EINVAL);
    assert_no_threads_left(before);
}

/* An input that goes on after its end must not leave a short record in the middle. A file that grows does
 * that now and then; a datagram of no bytes does it each time. */
static void test_growing_input(void **state)
{
    static const char text[100] = "datagram";
    _cleanup_close_ int out = memfd_empty();
    struct tbenc_seal_params p = seal_params();
    struct tbenc_error e = {0};
    int s[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, s), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(send(s[1], text, sizeof(text), 0), sizeof(text));
        assert_int_equal(send(s[1], "", 0, 0), 0);
    }
    assert_int_equal(seal_one(&p, s[0], UINT64_MAX, out, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "longer than 100 bytes"));
    close(s[0]);
    close(s[1]);
}

static void test_seal_table_failures(void **state)
{
    static const char *const bad[][2] = {{"b", "a"},    {"a", "a"}, {"a", "a/b"},
                                         {"../a", "b"}, {"", "b"},  {NULL, "b"}};
    _cleanup_close_ int a = memfd_of("a", 1), b = memfd_of("b", 1), out = memfd_empty();
    struct tbenc_seal_params p = seal_params();
    struct tbenc_manifest *m = NULL;
    struct tbenc_error e = {0};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct tbenc_input in[2] = {{.fd = a, .path = bad[i][0], .bytes = 1},
                                    {.fd = b, .path = bad[i][1], .bytes = 1}};

        assert_int_equal(tbenc_seal(&p, in, 2, true, out, &m, &e), -EINVAL);
        assert_null(m);
    }
    struct tbenc_input two[2] = {{.fd = a, .path = "a", .bytes = 1}, {.fd = b, .path = "b", .bytes = 1}};
    assert_int_equal(tbenc_seal(&p, two, 2, false, out, &m, &e), -EINVAL);
    assert_int_equal(tbenc_seal(&p, two, 0, true, out, &m, &e), -EFBIG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_table_hash_mismatch),
        cmocka_unit_test(test_pipe_out),
        cmocka_unit_test(test_pipe_of_a_table),
        cmocka_unit_test(test_reader_goes_away),
        cmocka_unit_test(test_stalled_input),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_seal_failures),
        cmocka_unit_test(test_growing_input),
        cmocka_unit_test(test_seal_table_failures),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
