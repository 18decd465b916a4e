/* SPDX-License-Identifier: Apache-2.0 */
/* Opening: tbenc(5), section OPENING. The manifest fixes where every record lies and how long it is, so
 * reading needs no parsing: each length field is compared, each tag verified, and afterwards the whole is
 * compared with the hashes. */
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include "tbenc/digest.h"
#include "common/io.h"
#include "common/secret.h"
#include "tbenc/stream.h"

/* Fits the second-level cache beside what is decrypted from it. */
#define PIECE_BYTES (256 * 1024)

struct opening {
    const struct tbenc_open_params *p;
    const struct tbenc_manifest *m;
    struct tbenc_header header;
    struct tbenc_source source;
    struct tbenc_sink sink; /* streams */
    const int *out_fds;     /* files */
    int wake_fd;
    unsigned workers, per_batch, lag;
    uint64_t records, done; /* done: plaintext bytes, for progress */
    struct tbenc_gcm gcm[TBENC_THREADS_MAX];
    uint8_t *pieces[TBENC_THREADS_MAX]; /* PIECE_BYTES of ciphertext each; NULL: whole records are read */
    struct tbenc_sha256 ciphertext, tags;
    struct tbenc_filehash files;
    bool check_ciphertext, check_files;
    bool from_start; /* a seekable input is read from offset 0, not from where it stands */
    /* the filling worker's */
    struct tbenc_record next;
    bool started;
};

/* -- reading --------------------------------------------------------------------------------------------- */
static int open_read_failed(struct tbenc_error *e, ssize_t r)
{
    return tbenc_fail(e, (int)r, "cannot read the ciphertext: %s", strerror((int)-r));
}

/* Plans the next batch; what cannot be read at offsets is read here, in order. */
static int open_fill(void *ctx, struct tbenc_batch *b)
{
    struct opening *o = ctx;
    ssize_t k;

    for (; b->n < o->per_batch; b->n++) {
        uint64_t index = o->started ? o->next.index + 1 : 0;

        if (index >= o->records)
            break;
        if (o->started)
            tbenc_layout_next(o->m, &o->next);
        else if (tbenc_manifest_record(o->m, 0, &o->next) < 0)
            return tbenc_fail(&b->error, -EINVAL, "the manifest was changed");
        o->started = true;
        b->rec[b->n] = o->next;
        b->ct_len += o->next.pt_len + TBENC_RECORD_OVERHEAD;
        b->pt_len += o->next.pt_len;
    }
    if (b->n == 0)
        return 0;
    if (!o->source.seekable) {
        k = tbenc_source_read(&o->source, b->ct, b->ct_len);
        if (k < 0)
            return open_read_failed(&b->error, k);
        b->ct_got = (size_t)k;
    }
    return 1;
}

/* -- records --------------------------------------------------------------------------------------------- */
/* Is the record there in full, with the length the manifest implies? got bytes of it were read into p. */
static int open_check_record(const struct opening *o, struct tbenc_batch *b, unsigned i, const uint8_t *p,
                             size_t got)
{
    const struct tbenc_record *rec = &b->rec[i];
    uint32_t len = got >= TBENC_LEN_BYTES ? tbenc_get32(p) : rec->pt_len;

    if (len != rec->pt_len)
        return tbenc_fail_chunk(&b->error, -EBADMSG, rec->index,
                                "its length field says %u, the manifest implies %u: damaged, or another file",
                                len, rec->pt_len);
    if (got < (size_t)rec->pt_len + TBENC_RECORD_OVERHEAD)
        return tbenc_fail_chunk(&b->error, -EBADMSG, rec->index,
                                "the file ends here after %llu bytes, it should have %llu: cut short",
                                (unsigned long long)(rec->ct_off + got),
                                (unsigned long long)tbenc_manifest_ciphertext_bytes(o->m));
    return 0;
}

static int not_opened(struct tbenc_batch *b, unsigned i, int r)
{
    if (r == -EBADMSG)
        return tbenc_fail_chunk(&b->error, r, b->rec[i].index,
                                "not authentic: the wrong key, or damaged or moved data");
    return tbenc_fail_chunk(&b->error, r, b->rec[i].index, "cannot decrypt: the crypto library refused");
}

static int open_record(struct opening *o, unsigned worker, struct tbenc_batch *b, unsigned i)
{
    const struct tbenc_record *rec = &b->rec[i];
    size_t at = tbenc_batch_ct(b, i), got = b->ct_got > at ? b->ct_got - at : 0;
    const uint8_t *in = b->ct + at;
    uint8_t *t = b->tagrec + (size_t)i * TBENC_TAGREC_BYTES;
    int r;

    r = open_check_record(o, b, i, in, got);
    if (r < 0)
        return r;
    memcpy(t, in, TBENC_LEN_BYTES);
    memcpy(t + TBENC_LEN_BYTES, in + TBENC_LEN_BYTES + rec->pt_len, TBENC_TAG_BYTES);
    if (!o->p->key)
        return 0;
    r = tbenc_gcm_open(&o->gcm[worker], rec->index, in, rec->pt_len, b->pt + tbenc_batch_pt(b, i));
    return r < 0 ? not_opened(b, i, r) : 0;
}

/* Decrypts rec in pieces that stay in the CPU's cache between being read and being decrypted. Its bytes read,
 * or -errno. */
static ssize_t open_pieces(struct opening *o, unsigned worker, struct tbenc_batch *b)
{
    const struct tbenc_record *rec = &b->rec[0];
    struct tbenc_gcm *g = &o->gcm[worker];
    uint64_t at = rec->ct_off + TBENC_LEN_BYTES;
    int r;

    r = tbenc_gcm_open_start(g, rec->index, rec->pt_len);
    for (uint32_t done = 0, n; r >= 0 && done < rec->pt_len; done += n) {
        ssize_t k;

        n = MIN(rec->pt_len - done, (uint32_t)PIECE_BYTES);
        k = tbenc_source_pread(&o->source, o->pieces[worker], n, at + done);
        if (k < (ssize_t)n)
            return k < 0 ? k : TBENC_LEN_BYTES + (ssize_t)done + k;
        r = tbenc_gcm_open_update(g, o->pieces[worker], n, b->pt + done);
    }
    return r < 0 ? r : (ssize_t)rec->pt_len + TBENC_LEN_BYTES;
}

/* A batch of one large record whose ciphertext nobody else needs. */
static int open_large(struct opening *o, unsigned worker, struct tbenc_batch *b)
{
    const struct tbenc_record *rec = &b->rec[0];
    ssize_t got, k;
    int r;

    got = tbenc_source_pread(&o->source, b->tagrec, TBENC_LEN_BYTES, rec->ct_off);
    if (got == TBENC_LEN_BYTES && tbenc_get32(b->tagrec) == rec->pt_len)
        got = open_pieces(o, worker, b);
    if (got == (ssize_t)rec->pt_len + TBENC_LEN_BYTES) {
        k = tbenc_source_pread(&o->source, b->tagrec + TBENC_LEN_BYTES, TBENC_TAG_BYTES,
                               rec->ct_off + (uint64_t)got);
        got = k < 0 ? k : got + k;
    }
    if (got < 0)
        return open_read_failed(&b->error, got);
    r = open_check_record(o, b, 0, b->tagrec, (size_t)got);
    if (r < 0)
        return r;
    r = tbenc_gcm_open_finish(&o->gcm[worker], b->tagrec + TBENC_LEN_BYTES);
    return r < 0 ? not_opened(b, 0, r) : 0;
}

static int open_work(void *ctx, unsigned worker, struct tbenc_batch *b)
{
    struct opening *o = ctx;
    int r = 0;

    if (o->pieces[worker] && b->n == 1)
        return open_large(o, worker, b);
    if (o->source.seekable) {
        ssize_t k = tbenc_source_pread(&o->source, b->ct, b->ct_len, b->rec[0].ct_off);

        if (k < 0)
            return open_read_failed(&b->error, k);
        b->ct_got = (size_t)k;
    }
    for (unsigned i = 0; r >= 0 && i < b->n; i++)
        r = open_record(o, worker, b, i);
    return r;
}

/* Writes each run of records of one file to its place. */
static int open_work_files(void *ctx, unsigned worker, struct tbenc_batch *b)
{
    struct opening *o = ctx;
    int r = open_work(ctx, worker, b);

    for (unsigned i = 0, j; r >= 0 && i < b->n; i = j) {
        size_t n = b->rec[i].pt_len;

        for (j = i + 1; j < b->n && b->rec[j].file == b->rec[i].file; j++)
            n += b->rec[j].pt_len;
        if (o->out_fds[b->rec[i].file] < 0)
            continue;
        r = tb_pwrite_full(o->out_fds[b->rec[i].file], b->pt + tbenc_batch_pt(b, i), n, b->rec[i].file_off);
        if (r < 0)
            return tbenc_fail_chunk(&b->error, r, b->rec[i].index, "cannot write the plaintext: %s",
                                    strerror(-r));
    }
    return r;
}

/* -- in order, in the caller's thread -------------------------------------------------------------------- */
static int open_retire(void *ctx, struct tbenc_batch *b)
{
    struct opening *o = ctx;

    if (tbenc_sha256_update(&o->tags, b->tagrec, (size_t)b->n * TBENC_TAGREC_BYTES) < 0)
        return tbenc_fail(&b->error, -EIO, "cannot hash: the crypto library refused");
    o->done += b->pt_len;
    if (o->p->progress && o->p->progress(o->p->progress_ctx, o->done, o->m->plaintext_bytes) != 0)
        return tbenc_fail(&b->error, -ECANCELED, "stopped");
    return 0;
}

/* Plaintext offset where batch seq ends; the end of the asset when there are fewer batches. */
static uint64_t batch_end(const struct opening *o, uint64_t seq)
{
    struct tbenc_record r;

    if (tbenc_manifest_record(o->m, (seq + 1) * o->per_batch, &r) < 0)
        return o->m->plaintext_bytes;
    return r.pt_off;
}

/* May the pages of batch seq be lent to the pipe? They are overwritten or wiped no sooner than `lag` batches
 * later, and by then so much more must have been written that not even a pipe behind this one can still hold
 * them. */
static bool may_lend(const struct opening *o, uint64_t seq)
{
    return o->lag > 0 && batch_end(o, seq + o->lag) - batch_end(o, seq) >= 2 * o->sink.pipe_bytes;
}

static int open_retire_stream(void *ctx, struct tbenc_batch *b)
{
    struct opening *o = ctx;
    int r;

    r = tbenc_sink_write(&o->sink, b->pt, b->pt_len, may_lend(o, b->seq));
    if (r < 0)
        return tbenc_fail_chunk(&b->error, r, b->rec[0].index, "cannot write the plaintext: %s",
                                r == -EPIPE ? "the reader went away" : strerror(-r));
    return open_retire(ctx, b);
}

static int open_hash_ciphertext(void *ctx, struct tbenc_batch *b)
{
    return tbenc_sha256_update(&((struct opening *)ctx)->ciphertext, b->ct, b->ct_len);
}

static int open_hash_files(void *ctx, struct tbenc_batch *b)
{
    return tbenc_filehash_batch(&((struct opening *)ctx)->files, b);
}

/* -- before and after ------------------------------------------------------------------------------------ */
static int open_read_header(struct opening *o, struct tbenc_error *e)
{
    uint8_t buf[TBENC_HEADER_BYTES];
    ssize_t k;
    int r;

    k = o->source.seekable ? tbenc_source_pread(&o->source, buf, sizeof(buf), 0)
                           : tbenc_source_read(&o->source, buf, sizeof(buf));
    if (k < 0)
        return open_read_failed(e, k);
    r = tbenc_header_parse(buf, (size_t)k, o->p->flags, &o->header, e);
    if (r < 0)
        return r;
    if (o->header.chunk_bytes != o->m->chunk_bytes)
        return tbenc_fail(e, -EBADMSG,
                          "header: chunk_bytes is %u, the manifest says %u: they do not belong together",
                          o->header.chunk_bytes, o->m->chunk_bytes);
    return o->check_ciphertext ? tbenc_sha256_update(&o->ciphertext, buf, sizeof(buf)) : 0;
}

static bool may_read_pieces(const struct opening *o)
{
    return o->source.seekable && !o->check_ciphertext && o->p->key && o->m->chunk_bytes > PIECE_BYTES;
}

static int open_init_ciphers(struct opening *o)
{
    uint8_t key[TBENC_KEY_BYTES];
    int r = o->p->key ? tbenc_record_key(o->m->base, o->p->key, key) : 0;

    for (unsigned i = 0; r >= 0 && o->p->key && i < o->workers; i++)
        r = tbenc_gcm_init(&o->gcm[i], &o->header, key, false);
    tb_erase(key, sizeof(key));
    return r;
}

static int open_prepare(struct opening *o, int in_fd, struct tbenc_error *e)
{
    int r = 0;

    o->m = o->p->manifest;
    o->per_batch = tbenc_batch_records(o->m->chunk_bytes);
    o->records = tbenc_manifest_records(o->m);
    o->workers =
        (unsigned)MAX(MIN(tbenc_threads(o->p->threads), tbenc_chunks_of(o->records, o->per_batch)), 1U);
    o->check_ciphertext |= o->p->flags & TBENC_CHECK_SHA256;
    o->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (o->wake_fd < 0)
        r = -errno;
    if (r >= 0)
        r = tbenc_sha256_init(&o->tags);
    if (r >= 0)
        r = tbenc_sha256_init(&o->ciphertext);
    if (r >= 0 && o->check_files)
        r = tbenc_filehash_init(&o->files, o->m->n_files);
    if (r < 0)
        return tbenc_fail(e, r, "cannot start: %s", strerror(-r));
    r = tbenc_source_init(&o->source, in_fd, o->wake_fd);
    if (r < 0)
        return open_read_failed(e, r);
    if (o->from_start)
        o->source.base = 0;
    r = open_read_header(o, e);
    if (r < 0)
        return r;
    r = open_init_ciphers(o);
    for (unsigned i = 0; r >= 0 && may_read_pieces(o) && i < o->workers; i++) {
        o->pieces[i] = malloc(PIECE_BYTES);
        r = o->pieces[i] ? 0 : -ENOMEM;
    }
    return r < 0 ? tbenc_fail(e, r, "cannot start: %s", strerror(-r)) : 0;
}

static int open_check_end(struct opening *o, struct tbenc_error *e)
{
    uint8_t byte;
    ssize_t k;

    k = o->source.seekable ? tbenc_source_pread(&o->source, &byte, 1, tbenc_manifest_ciphertext_bytes(o->m))
                           : tbenc_source_read(&o->source, &byte, 1);
    if (k < 0)
        return open_read_failed(e, k);
    if (k > 0)
        return tbenc_fail_chunk(e, -EBADMSG, o->records,
                                "something follows the last record: not this manifest's file");
    return 0;
}

static int open_check_sha256(struct tbenc_sha256 *h, const uint8_t *want, const char *name,
                             struct tbenc_error *e)
{
    uint8_t got[TBENC_SHA256_BYTES];

    if (tbenc_sha256_final(h, got) < 0)
        return tbenc_fail(e, -EIO, "cannot hash: the crypto library refused");
    if (memcmp(got, want, sizeof(got)) != 0)
        return tbenc_fail(e, -EBADMSG,
                          "%s is not what the manifest says: damaged, or another manifest's file", name);
    return 0;
}

static int open_check_file_hashes(struct opening *o, struct tbenc_error *e)
{
    if (tbenc_filehash_final(&o->files) < 0)
        return tbenc_fail(e, -EIO, "cannot hash: the crypto library refused");
    for (size_t i = 0; i < o->m->n_files; i++)
        if (memcmp(o->files.out[i], o->m->files[i].sha256, TBENC_SHA256_BYTES) != 0)
            return tbenc_fail(e, -EBADMSG, "file \"%.300s\": its sha256 is not what the manifest says",
                              o->m->files[i].path);
    return 0;
}

static int open_run(struct opening *o, const struct tbenc_engine_ops *ops, struct tbenc_error *e)
{
    struct tbenc_engine_params p = {
        .ops = ops,
        .ctx = o,
        .workers = o->workers,
        .lag = o->lag,
        .chunk_bytes = o->m->chunk_bytes,
        .wake_fd = o->wake_fd,
    };
    int r;

    r = tbenc_engine_run(&p, e);
    if (r >= 0)
        r = open_check_end(o, e);
    if (r >= 0 && o->m->has_tags_sha256)
        r = open_check_sha256(&o->tags, o->m->tags_sha256, "tags_sha256", e);
    if (r >= 0 && o->check_ciphertext)
        r = open_check_sha256(&o->ciphertext, o->m->sha256_ciphertext, "sha256_ciphertext", e);
    if (r >= 0 && o->check_files)
        r = open_check_file_hashes(o, e);
    return r;
}

static void opening_done(struct opening *o)
{
    for (unsigned i = 0; i < TBENC_THREADS_MAX; i++) {
        tbenc_gcm_done(&o->gcm[i]);
        free(o->pieces[i]);
    }
    tbenc_sha256_done(&o->ciphertext);
    tbenc_sha256_done(&o->tags);
    tbenc_filehash_done(&o->files);
    o->wake_fd = tb_close(o->wake_fd);
}

/* -- the three ways -------------------------------------------------------------------------------------- */
#define LAG_MAX 8

int tbenc_open_stream(const struct tbenc_open_params *p, int in_fd, int out_fd, struct tbenc_error *e)
{
    _cleanup_(opening_done) struct opening o = {.p = p, .wake_fd = -1};
    struct tbenc_engine_ops ops = {.fill = open_fill, .work = open_work, .retire = open_retire_stream};
    uint64_t lag;
    int r;

    if (!p->key)
        return tbenc_fail(e, -EINVAL, "no key");
    r = open_prepare(&o, in_fd, e);
    if (r < 0)
        return r;
    r = tbenc_sink_init(&o.sink, out_fd);
    if (r < 0)
        return tbenc_fail(e, r, "cannot write the plaintext: %s", strerror(-r));
    if (o.sink.pipe && !(p->flags & TBENC_COPY_TO_PIPE)) {
        lag = tbenc_chunks_of(2 * o.sink.pipe_bytes, o.per_batch * o.m->chunk_bytes);
        o.lag = lag <= LAG_MAX ? (unsigned)lag : 0;
    }
    if (o.check_ciphertext)
        ops.observe[0] = open_hash_ciphertext;
    return open_run(&o, &ops, e);
}

static int open_check_outputs(const struct tbenc_manifest *m, const int *out_fds, size_t n_out,
                              struct tbenc_error *e)
{
    if (n_out != (m->files ? m->n_files : 1))
        return tbenc_fail(e, -EINVAL, "%zu output files for a manifest of %zu", n_out,
                          m->files ? m->n_files : 1);
    for (size_t i = 0; i < n_out; i++)
        if (out_fds[i] >= 0 &&
            ftruncate(out_fds[i], (off_t)(m->files ? m->files[i].bytes : m->plaintext_bytes)) < 0) {
            int r = -errno;

            return tbenc_fail(e, r, "cannot write %.300s: %s", m->files ? m->files[i].path : "the plaintext",
                              strerror(-r));
        }
    return 0;
}

int tbenc_open_files(const struct tbenc_open_params *p, int in_fd, const int *out_fds, size_t n_out,
                     struct tbenc_error *e)
{
    _cleanup_(opening_done) struct opening o = {
        .p = p, .wake_fd = -1, .out_fds = out_fds, .from_start = true};
    struct tbenc_engine_ops ops = {.fill = open_fill, .work = open_work_files, .retire = open_retire};
    int r;

    if (!p->key)
        return tbenc_fail(e, -EINVAL, "no key");
    r = open_prepare(&o, in_fd, e);
    if (r < 0)
        return r;
    r = open_check_outputs(o.m, out_fds, n_out, e);
    if (r < 0)
        return r;
    if (o.check_ciphertext)
        ops.observe[0] = open_hash_ciphertext;
    return open_run(&o, &ops, e);
}

int tbenc_verify(const struct tbenc_open_params *p, int in_fd, struct tbenc_error *e)
{
    _cleanup_(opening_done) struct opening o = {
        .p = p, .wake_fd = -1, .check_ciphertext = true, .from_start = true};
    struct tbenc_engine_ops ops = {
        .fill = open_fill, .work = open_work, .retire = open_retire, .observe = {open_hash_ciphertext, NULL}};
    int r;

    o.check_files = p->key && p->manifest->files;
    if (o.check_files)
        ops.observe[1] = open_hash_files;
    r = open_prepare(&o, in_fd, e);
    return r < 0 ? r : open_run(&o, &ops, e);
}
