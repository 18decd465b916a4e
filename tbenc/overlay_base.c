/* SPDX-License-Identifier: Apache-2.0 */
/* An overlay together with its base: judged by the base's manifest, and opened as one. */
#include <string.h>

#include "common/io.h"
#include "common/secret.h"
#include "tbenc/digest.h"
#include "tbenc/stream.h"

static void base_manifest_freep(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

/* The table entry of the base whose run starts at this record. */
static size_t base_find(const struct tbenc_manifest *base, uint64_t chunk)
{
    for (size_t i = 0; i < base->n_files; i++)
        if (base->files[i].chunk == chunk && base->files[i].bytes)
            return i;
    return base->n_files;
}

static int base_check_file(const struct tbenc_manifest *m, const struct tbenc_manifest *base, size_t i,
                           struct tbenc_error *e)
{
    const struct tbenc_file *f = &m->base->files[i];
    size_t at = base_find(base, f->chunk);

    if (at < base->n_files && base->files[at].bytes == f->bytes &&
        memcmp(base->files[at].sha256, f->sha256, TBENC_SHA256_BYTES) == 0)
        return 0;
    return tbenc_fail(e, -EBADMSG, "manifest: base.files[%zu]: version %llu has no such file as \"%.200s\"",
                      i, (unsigned long long)m->base->version, f->path);
}

int tbenc_base_check(const struct tbenc_manifest *m, const struct tbenc_manifest *base,
                     const uint8_t manifest_sha256[TBENC_SHA256_BYTES], struct tbenc_error *e)
{
    const struct tbenc_base *b = m->base;

    if (!b)
        return tbenc_fail(e, -EINVAL, "the manifest is not one of an overlay");
    if (memcmp(manifest_sha256, b->manifest_sha256, TBENC_SHA256_BYTES) != 0)
        return tbenc_fail(
            e, -EBADMSG,
            "the manifest of the base is not the one that the overlay was made for (its SHA-256 "
            "differs)");
    if (base->base || !base->files || !base->has_tags_sha256 || !base->has_key_id)
        return tbenc_fail(e, -EBADMSG, "an overlay cannot stand on this version: it %s",
                          base->base    ? "is an overlay itself"
                          : base->files ? "was made by another writer, and has no key_id or tags_sha256"
                                        : "is one file, without a file table");
    if (strcmp(base->asset_id, m->asset_id) != 0 || base->chunk_bytes != m->chunk_bytes ||
        memcmp(base->key_id, m->key_id, TBENC_KEY_ID_BYTES) != 0 ||
        memcmp(base->sha256_ciphertext, b->sha256_ciphertext, TBENC_SHA256_BYTES) != 0 ||
        memcmp(base->tags_sha256, b->tags_sha256, TBENC_SHA256_BYTES) != 0)
        return tbenc_fail(
            e, -EBADMSG,
            "the base is not of the same asset, chunk_bytes, key and hashes as its overlay says");
    for (size_t i = 0; i < b->n_files; i++) {
        int r = base_check_file(m, base, i, e);

        if (r < 0)
            return r;
    }
    return 0;
}

int tbenc_base_parse(const struct tbenc_manifest *m, const char *text, size_t len,
                     struct tbenc_manifest **ret, struct tbenc_error *e)
{
    _cleanup_(base_manifest_freep) struct tbenc_manifest *base = NULL;
    struct tbenc_error inner = {.chunk = TBENC_NO_CHUNK};
    uint8_t sha256[TBENC_SHA256_BYTES];
    struct tbenc_sha256 h = {0};
    int r = tbenc_sha256_init(&h);

    if (r >= 0)
        r = tbenc_sha256_update(&h, text, len);
    if (r >= 0)
        r = tbenc_sha256_final(&h, sha256);
    tbenc_sha256_done(&h);
    if (r < 0)
        return tbenc_fail(e, r, "cannot hash: the crypto library refused");
    r = tbenc_manifest_parse(text, len, TBENC_OVERLAY, &base, &inner);
    if (r < 0)
        return tbenc_fail(e, r, "base: %.450s", inner.message);
    r = tbenc_base_check(m, base, sha256, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(base);
    return 0;
}

/* -- opening both ---------------------------------------------------------------------------------------- */
int tbenc_tree_deal(const struct tbenc_manifest *m, const struct tbenc_manifest *base,
                    const struct tbenc_manifest *tree, const int *fds, int *ret_own, int *ret_base)
{
    size_t i = 0, j = 0;

    for (size_t k = 0; k < base->n_files; k++)
        ret_base[k] = -1;
    for (size_t k = 0; k < tree->n_files; k++) {
        if (i < m->n_files && strcmp(m->files[i].path, tree->files[k].path) == 0) {
            ret_own[i++] = fds[k];
        } else if (j < m->base->n_files && strcmp(m->base->files[j].path, tree->files[k].path) == 0) {
            size_t at = base_find(base, m->base->files[j++].chunk);

            if (at >= base->n_files)
                return -EINVAL;
            ret_base[at] = fds[k];
        } else {
            return -EINVAL;
        }
    }
    return i == m->n_files && j == m->base->n_files ? 0 : -EINVAL;
}

/* Length and tag of each record, without what is between them. */
static int overlay_check_tags(const struct tbenc_manifest *m, int fd, struct tbenc_error *e)
{
    uint64_t n = tbenc_manifest_records(m);
    uint8_t t[TBENC_TAGREC_BYTES], got[TBENC_SHA256_BYTES];
    struct tbenc_sha256 h = {0};
    struct tbenc_record rec;
    int r = tbenc_sha256_init(&h);

    for (uint64_t i = 0; r >= 0 && i < n; i++) {
        if (i > 0)
            tbenc_layout_next(m, &rec);
        else
            r = tbenc_manifest_record(m, 0, &rec);
        if (r >= 0 && (tb_pread_full(fd, t, TBENC_LEN_BYTES, rec.ct_off) != TBENC_LEN_BYTES ||
                       tb_pread_full(fd, t + TBENC_LEN_BYTES, TBENC_TAG_BYTES,
                                     rec.ct_off + TBENC_LEN_BYTES + rec.pt_len) != TBENC_TAG_BYTES))
            r = tbenc_fail_chunk(e, -EBADMSG, i, "cannot be read: cut short, or the disk refuses");
        if (r >= 0)
            r = tbenc_sha256_update(&h, t, sizeof(t));
    }
    if (r >= 0)
        r = tbenc_sha256_final(&h, got);
    tbenc_sha256_done(&h);
    if (r >= 0 && memcmp(got, m->tags_sha256, sizeof(got)) != 0)
        r = tbenc_fail(e, -EBADMSG,
                       "tags_sha256 is not what the manifest says: damaged, or another manifest's file");
    return r;
}

static void overlay_reader_freep(struct tbenc_reader **r)
{
    *r = tbenc_reader_free(*r);
}

/* Which of the two is at fault, for whoever can bring it again. */
static int overlay_blame_base(struct tbenc_error *e, int r)
{
    struct tbenc_error inner;

    if (r >= 0 || !e)
        return r;
    inner = *e;
    (void)tbenc_fail(e, r, "base: %.480s", inner.message);
    e->chunk = inner.chunk;
    return r;
}

struct overlay_stream {
    const struct tbenc_open_params *p;
    const struct tbenc_manifest *tree;
    uint8_t *buf;
    int out_fd;
    uint64_t done;
};

static int overlay_fail_read(const struct overlay_stream *s, const struct tbenc_manifest *m, int r,
                             struct tbenc_error *e)
{
    return m == s->p->manifest ? r : overlay_blame_base(e, r);
}

static int overlay_copy_file(struct overlay_stream *s, struct tbenc_reader *rd,
                             const struct tbenc_manifest *m, size_t file, struct tbenc_error *e)
{
    uint64_t off = 0, left;

    if (file >= m->n_files)
        return tbenc_fail(e, -EINVAL, "the base was not checked against the overlay");
    left = m->files[file].bytes;
    for (size_t i = 0; i < file; i++)
        off += m->files[i].bytes;
    while (left > 0) {
        ssize_t n = tbenc_reader_pread(rd, s->buf, (size_t)MIN(left, m->chunk_bytes), off, e);
        int r;

        if (n <= 0)
            return overlay_fail_read(s, m, n < 0 ? (int)n : -EBADMSG, e);
        r = tb_write_full(s->out_fd, s->buf, (size_t)n);
        if (r < 0)
            return tbenc_fail(e, r, "cannot write the plaintext: %s",
                              r == -EPIPE ? "the reader went away" : strerror(-r));
        off += (uint64_t)n;
        left -= (uint64_t)n;
        s->done += (uint64_t)n;
        if (s->p->progress && s->p->progress(s->p->progress_ctx, s->done, s->tree->plaintext_bytes) != 0)
            return tbenc_fail(e, -ECANCELED, "stopped");
    }
    return 0;
}

static int overlay_copy_all(struct overlay_stream *s, struct tbenc_reader *own, struct tbenc_reader *under,
                            const struct tbenc_manifest *base, struct tbenc_error *e)
{
    const struct tbenc_manifest *m = s->p->manifest;
    size_t i = 0, j = 0;
    int r = 0;

    for (size_t k = 0; r >= 0 && k < s->tree->n_files; k++) {
        bool is_own = i < m->n_files && strcmp(m->files[i].path, s->tree->files[k].path) == 0;

        r = is_own ? overlay_copy_file(s, own, m, i, e)
                   : overlay_copy_file(s, under, base, base_find(base, m->base->files[j].chunk), e);
        i += is_own;
        j += !is_own;
    }
    return r;
}

int tbenc_open_overlay(const struct tbenc_open_params *p, const struct tbenc_manifest *base, int in_fd,
                       int base_fd, int out_fd, struct tbenc_error *e)
{
    _cleanup_(overlay_reader_freep) struct tbenc_reader *own = NULL, *under = NULL;
    _cleanup_(base_manifest_freep) struct tbenc_manifest *tree = NULL;
    struct tbenc_open_params q = {.manifest = base, .key = p->key, .flags = p->flags};
    struct overlay_stream s = {.p = p, .out_fd = out_fd};
    int r = overlay_check_tags(p->manifest, in_fd, e);

    if (r >= 0)
        r = overlay_blame_base(e, overlay_check_tags(base, base_fd, e));
    if (r >= 0)
        r = tbenc_reader_new(p, in_fd, &own, e);
    if (r >= 0)
        r = overlay_blame_base(e, tbenc_reader_new(&q, base_fd, &under, e));
    if (r < 0)
        return r;
    r = tbenc_manifest_tree(p->manifest, &tree);
    s.buf = r < 0 ? NULL : tb_secret_alloc(base->chunk_bytes);
    if (!s.buf)
        return tbenc_fail(e, -ENOMEM, "out of memory");
    s.tree = tree;
    r = overlay_copy_all(&s, own, under, base, e);
    tb_secret_free(s.buf);
    return r;
}
