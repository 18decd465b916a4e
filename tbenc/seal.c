/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing: tbenc(5), sections RECORDS, LAYOUT and MANIFEST. Inputs are read in order; workers encrypt; the
 * caller's thread writes in order; the hash of the ciphertext, and with a table the hashes of the files, have
 * a thread each, because SHA-256 is what limits sealing. */
#include <string.h>
#include <sys/eventfd.h>

#include "tbenc/digest.h"
#include "common/io.h"
#include "common/secret.h"
#include "tbenc/stream.h"

struct seal {
    const struct tbenc_seal_params *p;
    const struct tbenc_input *in;
    size_t n_in;
    int out_fd;
    struct tbenc_header header;
    struct tbenc_manifest *m; /* being built */
    unsigned per_batch;       /* records */
    unsigned workers;
    int wake_fd;
    struct tbenc_gcm gcm[TBENC_THREADS_MAX];
    struct tbenc_sha256 ciphertext, tags;
    struct tbenc_filehash files;
    uint64_t total, done; /* plaintext bytes, for progress; total 0: unknown */
    /* the filling worker's */
    size_t cur; /* input being read; n_in: all read */
    bool opened;
    struct tbenc_source source;
    struct tbenc_record next; /* of the next record: index, ct_off, pt_off, file, file_off */
};

/* -- reading the inputs ---------------------------------------------------------------------------------- */
static const char *input_name(const struct seal *s)
{
    return s->in[s->cur].path ? s->in[s->cur].path : "input";
}

static int input_open(struct seal *s, struct tbenc_error *e)
{
    int r = tbenc_source_init(&s->source, s->in[s->cur].fd, s->wake_fd);

    if (r < 0)
        return tbenc_fail(e, r, "%.400s: cannot read: %s", input_name(s), strerror(-r));
    s->next.file = s->cur;
    s->next.file_off = 0;
    s->opened = true;
    if (s->m->files)
        s->m->files[s->cur].chunk = s->next.index;
    return 0;
}

/* All of the current input was read: is it as long as it was said to be? */
static int input_close(struct seal *s, struct tbenc_error *e)
{
    uint64_t want = s->in[s->cur].bytes;

    if (want != UINT64_MAX && want != s->next.file_off)
        return tbenc_fail(e, -EBADMSG,
                          "%.400s: ends after %llu bytes instead of %llu: it changed while it was read",
                          input_name(s), (unsigned long long)s->next.file_off, (unsigned long long)want);
    if (s->m->files)
        s->m->files[s->cur].bytes = s->next.file_off;
    s->cur++;
    s->opened = false;
    return 0;
}

/* Reads at most one chunk of the current input. 0 at its end. */
static ssize_t input_read(struct seal *s, uint8_t *buf, struct tbenc_error *e)
{
    uint64_t want = s->in[s->cur].bytes, left = want == UINT64_MAX ? UINT64_MAX : want - s->next.file_off;
    /* After a short record, and at the size that was announced, one more byte is asked for to see that there
     * is none. */
    bool at_end = left == 0 || s->next.file_off % s->header.chunk_bytes != 0;
    size_t n = at_end ? 1 : (size_t)MIN(left, s->header.chunk_bytes);
    ssize_t k = tbenc_source_read(&s->source, buf, n);

    if (k < 0)
        return tbenc_fail(e, (int)k, "%.400s: cannot read: %s", input_name(s), strerror((int)-k));
    if (k > 0 && at_end)
        return tbenc_fail(e, -EBADMSG, "%.400s: longer than %llu bytes: it changed while it was read",
                          input_name(s), (unsigned long long)s->next.file_off);
    if ((uint64_t)k > TBENC_PLAINTEXT_MAX - s->next.pt_off)
        return tbenc_fail(e, -EFBIG, "more than %llu bytes of input",
                          (unsigned long long)TBENC_PLAINTEXT_MAX);
    return k;
}

static void seal_add_record(struct seal *s, struct tbenc_batch *b, uint32_t n)
{
    struct tbenc_record *r = &s->next;

    r->pt_len = n;
    b->rec[b->n++] = *r;
    b->pt_len += n;
    b->ct_len += n + TBENC_RECORD_OVERHEAD;
    r->index++;
    r->pt_off += n;
    r->file_off += n;
    r->ct_off += n + TBENC_RECORD_OVERHEAD;
}

static int seal_fill(void *ctx, struct tbenc_batch *b)
{
    struct seal *s = ctx;
    ssize_t k;
    int r;

    while (b->n < s->per_batch && s->cur < s->n_in) {
        if (!s->opened) {
            r = input_open(s, &b->error);
            if (r < 0)
                return r;
        }
        k = input_read(s, b->pt + b->pt_len, &b->error);
        if (k < 0)
            return (int)k;
        if (k > 0)
            seal_add_record(s, b, (uint32_t)k);
        r = k == 0 ? input_close(s, &b->error) : 0;
        if (r < 0)
            return r;
    }
    return b->n > 0;
}

/* -- sealing and writing --------------------------------------------------------------------------------- */
static int seal_work(void *ctx, unsigned worker, struct tbenc_batch *b)
{
    struct seal *s = ctx;

    for (unsigned i = 0; i < b->n; i++) {
        const struct tbenc_record *rec = &b->rec[i];
        uint8_t *out = b->ct + tbenc_batch_ct(b, i), *t = b->tagrec + (size_t)i * TBENC_TAGREC_BYTES;
        int r = tbenc_gcm_seal(&s->gcm[worker], rec->index, b->pt + tbenc_batch_pt(b, i), rec->pt_len, out);

        if (r < 0)
            return tbenc_fail_chunk(&b->error, r, rec->index, "cannot encrypt: the crypto library refused");
        memcpy(t, out, TBENC_LEN_BYTES);
        memcpy(t + TBENC_LEN_BYTES, out + TBENC_LEN_BYTES + rec->pt_len, TBENC_TAG_BYTES);
    }
    return 0;
}

static int seal_write(struct seal *s, const void *buf, size_t n, struct tbenc_error *e)
{
    int r = s->p->write ? s->p->write(s->p->write_ctx, buf, n) : tb_write_full(s->out_fd, buf, n);

    return r < 0 ? tbenc_fail(e, r, "cannot write the ciphertext: %s", strerror(-r)) : 0;
}

static int seal_retire(void *ctx, struct tbenc_batch *b)
{
    struct seal *s = ctx;
    int r;

    r = seal_write(s, b->ct, b->ct_len, &b->error);
    if (r < 0)
        return r;
    r = tbenc_sha256_update(&s->tags, b->tagrec, (size_t)b->n * TBENC_TAGREC_BYTES);
    if (r < 0)
        return tbenc_fail(&b->error, r, "cannot hash: the crypto library refused");
    s->done += b->pt_len;
    if (s->p->progress && s->p->progress(s->p->progress_ctx, s->done, s->total) != 0)
        return tbenc_fail(&b->error, -ECANCELED, "stopped");
    return 0;
}

static int seal_hash_ciphertext(void *ctx, struct tbenc_batch *b)
{
    return tbenc_sha256_update(&((struct seal *)ctx)->ciphertext, b->ct, b->ct_len);
}

static int seal_hash_files(void *ctx, struct tbenc_batch *b)
{
    return tbenc_filehash_batch(&((struct seal *)ctx)->files, b);
}

/* -- before and after ------------------------------------------------------------------------------------ */
static size_t seal_entry_size(const char *path)
{
    size_t n = 200;

    for (const char *c = path; *c; c++)
        n += *c == '"' || *c == '\\' ? 2 : 1;
    return n;
}

/* An upper bound of the manifest's size, so that too many long names fail before the work and not after it.
 * */
static int seal_check_manifest_size(struct seal *s, struct tbenc_error *e)
{
    size_t n = 4096;

    for (size_t i = 0; i < s->n_in; i++)
        n += seal_entry_size(s->in[i].path);
    for (size_t i = 0; s->m->base && i < s->m->base->n_files; i++)
        n += seal_entry_size(s->m->base->files[i].path);
    if (n > TBENC_MANIFEST_MAX)
        return tbenc_fail(e, -EFBIG, "the names of %zu files do not fit into a manifest of %d bytes",
                          s->n_in + (s->m->base ? s->m->base->n_files : 0), TBENC_MANIFEST_MAX);
    return 0;
}

static int seal_make_table(struct seal *s, struct tbenc_error *e)
{
    struct tbenc_manifest *m = s->m;

    if ((s->n_in < 1 && !m->base) || s->n_in > TBENC_FILES_MAX)
        return tbenc_fail(e, -EFBIG, "%zu files: a file table has 1 to %d", s->n_in, TBENC_FILES_MAX);
    m->files = calloc(s->n_in + 1, sizeof(*m->files));
    if (!m->files)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    m->n_files = s->n_in;
    for (size_t i = 0; i < s->n_in; i++) {
        m->files[i].mode = s->in[i].mode;
        m->files[i].path = strdup(s->in[i].path ? s->in[i].path : "");
        if (!m->files[i].path)
            return tbenc_fail(e, -ENOMEM, "out of memory");
    }
    /* Names, order and modes; the sizes are still 0. */
    if (tbenc_layout_check(m, e) < 0 || tbenc_overlay_check(m, e) < 0)
        return -EINVAL;
    return seal_check_manifest_size(s, e);
}

static int seal_check_params(struct seal *s, bool table, struct tbenc_error *e)
{
    const struct tbenc_seal_params *p = s->p;
    uint32_t chunk_bytes = p->chunk_bytes ? p->chunk_bytes : TBENC_CHUNK_BYTES_DEFAULT;

    if (chunk_bytes < TBENC_CHUNK_BYTES_MIN || chunk_bytes > TBENC_CHUNK_BYTES_MAX)
        return tbenc_fail(e, -EINVAL, "chunk_bytes %u is not in %d..%d", chunk_bytes, TBENC_CHUNK_BYTES_MIN,
                          TBENC_CHUNK_BYTES_MAX);
    if (!p->asset_id || !tb_asset_id_valid(p->asset_id))
        return tbenc_fail(e, -EINVAL, "the asset id is not " TB_ASSET_ID_WORDS);
    if (!tbenc_filename_valid(p->weights_filename))
        return tbenc_fail(e, -EINVAL, "the weights file name is not a plain file name");
    if (p->base && (!table || tbenc_base_copy(p->base, &s->m->base) < 0))
        return tbenc_fail(e, table ? -ENOMEM : -EINVAL, "%s",
                          table ? "out of memory" : "an overlay without a file table");
    if (!table && s->n_in != 1)
        return tbenc_fail(e, -EINVAL, "%zu inputs without a file table", s->n_in);
    s->header.chunk_bytes = s->m->chunk_bytes = chunk_bytes;
    snprintf(s->m->asset_id, sizeof(s->m->asset_id), "%s", p->asset_id);
    snprintf(s->m->weights_filename, sizeof(s->m->weights_filename), "%s", p->weights_filename);
    s->m->allow_finetune = p->allow_finetune;
    return table ? seal_make_table(s, e) : 0;
}

static uint64_t total_bytes(const struct seal *s)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s->n_in; i++) {
        if (s->in[i].bytes > TBENC_PLAINTEXT_MAX - n)
            return 0;
        n += s->in[i].bytes;
    }
    return n;
}

static int seal_prepare(struct seal *s, struct tbenc_error *e)
{
    uint8_t key[TBENC_KEY_BYTES];
    int r = 0;

    s->per_batch = tbenc_batch_records(s->header.chunk_bytes);
    s->workers = tbenc_threads(s->p->threads);
    s->total = total_bytes(s);
    s->next.ct_off = TBENC_HEADER_BYTES;
    if (s->p->nonce_prefix)
        memcpy(s->header.nonce_prefix, s->p->nonce_prefix, sizeof(s->header.nonce_prefix));
    else
        r = tb_random(s->header.nonce_prefix, sizeof(s->header.nonce_prefix));
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->wake_fd < 0)
        r = -errno;
    if (r >= 0)
        r = tbenc_record_key(s->p->base, s->p->key, key);
    for (unsigned i = 0; r >= 0 && i < s->workers; i++)
        r = tbenc_gcm_init(&s->gcm[i], &s->header, key, true);
    tb_erase(key, sizeof(key));
    if (r >= 0)
        r = tbenc_sha256_init(&s->ciphertext);
    if (r >= 0)
        r = tbenc_sha256_init(&s->tags);
    if (r >= 0 && s->m->files)
        r = tbenc_filehash_init(&s->files, s->m->n_files);
    return r < 0 ? tbenc_fail(e, r, "cannot start: %s", strerror(-r)) : 0;
}

static int seal_write_header(struct seal *s, struct tbenc_error *e)
{
    uint8_t header[TBENC_HEADER_BYTES];
    int r;

    tbenc_header_format(&s->header, header);
    r = seal_write(s, header, sizeof(header), e);
    if (r < 0)
        return r;
    return tbenc_sha256_update(&s->ciphertext, header, sizeof(header));
}

static int seal_finish_manifest(struct seal *s, struct tbenc_error *e)
{
    struct tbenc_manifest *m = s->m;
    int r;

    m->plaintext_bytes = s->next.pt_off;
    m->has_tags_sha256 = m->has_key_id = true;
    r = tbenc_key_id(s->p->key, m->key_id);
    if (r >= 0)
        r = tbenc_sha256_final(&s->ciphertext, m->sha256_ciphertext);
    if (r >= 0)
        r = tbenc_sha256_final(&s->tags, m->tags_sha256);
    if (r >= 0 && m->files)
        r = tbenc_filehash_final(&s->files);
    if (r < 0)
        return tbenc_fail(e, r, "cannot hash: the crypto library refused");
    for (size_t i = 0; i < m->n_files; i++)
        memcpy(m->files[i].sha256, s->files.out[i], TBENC_SHA256_BYTES);
    return tbenc_layout_check(m, e);
}

static int seal_run(struct seal *s, struct tbenc_error *e)
{
    struct tbenc_engine_ops ops = {
        .fill = seal_fill,
        .work = seal_work,
        .retire = seal_retire,
        .observe = {seal_hash_ciphertext, s->m->files ? seal_hash_files : NULL},
    };
    struct tbenc_engine_params p = {
        .ops = &ops,
        .ctx = s,
        .chunk_bytes = s->header.chunk_bytes,
    };
    int r;

    r = seal_prepare(s, e);
    if (r < 0)
        return r;
    p.workers = s->workers;
    p.wake_fd = s->wake_fd;
    r = seal_write_header(s, e);
    if (r < 0)
        return r;
    r = tbenc_engine_run(&p, e);
    if (r < 0)
        return r;
    return seal_finish_manifest(s, e);
}

static void seal_done(struct seal *s)
{
    for (unsigned i = 0; i < TBENC_THREADS_MAX; i++)
        tbenc_gcm_done(&s->gcm[i]);
    tbenc_sha256_done(&s->ciphertext);
    tbenc_sha256_done(&s->tags);
    tbenc_filehash_done(&s->files);
    s->wake_fd = tb_close(s->wake_fd);
    s->m = tbenc_manifest_free(s->m);
}

int tbenc_seal(const struct tbenc_seal_params *p, const struct tbenc_input *in, size_t n_in, bool table,
               int out_fd, struct tbenc_manifest **ret, struct tbenc_error *e)
{
    _cleanup_(seal_done) struct seal s = {.p = p, .in = in, .n_in = n_in, .out_fd = out_fd, .wake_fd = -1};
    int r;

    s.m = calloc(1, sizeof(*s.m));
    if (!s.m)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    r = seal_check_params(&s, table, e);
    if (r >= 0)
        r = seal_run(&s, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s.m);
    return 0;
}
