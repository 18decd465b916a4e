/* SPDX-License-Identifier: Apache-2.0 */
/* Overlays: tbenc(5), section OVERLAYS. What an overlay's manifest says about its base is judged in two
 * steps: alone, when it is parsed, and against the base's manifest, which it names by its hash
 * (overlay_base.c). */
#include <openssl/hmac.h>
#include <string.h>

#include "common/io.h"
#include "common/secret.h"
#include "tbenc/digest.h"
#include "tbenc/stream.h"

static void overlay_manifest_freep(struct tbenc_manifest **m)
{
    *m = tbenc_manifest_free(*m);
}

int tbenc_record_key(const struct tbenc_base *base, const uint8_t key[TBENC_KEY_BYTES],
                     uint8_t ret[TBENC_KEY_BYTES])
{
    static const char label[] = "tbenc overlay key v1"; /* its NUL is hashed, too */
    uint8_t text[sizeof(label) + TBENC_SALT_BYTES];
    unsigned n = TBENC_KEY_BYTES;

    if (!base) {
        memcpy(ret, key, TBENC_KEY_BYTES);
        return 0;
    }
    memcpy(text, label, sizeof(label));
    memcpy(text + sizeof(label), base->salt, TBENC_SALT_BYTES);
    return HMAC(EVP_sha256(), key, TBENC_KEY_BYTES, text, sizeof(text), ret, &n) ? 0 : -EIO;
}

/* -- the tree -------------------------------------------------------------------------------------------- */
static int tree_merge(const struct tbenc_manifest *m, struct tbenc_manifest *t)
{
    const struct tbenc_base *b = m->base;
    size_t i = 0, j = 0, n_base = b ? b->n_files : 0;
    uint64_t chunk = 0;

    while (i < m->n_files || j < n_base) {
        bool own = j >= n_base || (i < m->n_files && strcmp(m->files[i].path, b->files[j].path) <= 0);
        struct tbenc_file *f = &t->files[t->n_files];

        if (tbenc_file_copy(own ? &m->files[i++] : &b->files[j++], f) < 0)
            return -ENOMEM;
        t->n_files++;
        f->chunk = chunk;
        chunk += tbenc_chunks_of(f->bytes, m->chunk_bytes);
        if (f->bytes > TBENC_PLAINTEXT_MAX - t->plaintext_bytes)
            return -EFBIG;
        t->plaintext_bytes += f->bytes;
    }
    return 0;
}

int tbenc_manifest_tree(const struct tbenc_manifest *m, struct tbenc_manifest **ret)
{
    _cleanup_(overlay_manifest_freep) struct tbenc_manifest *t = malloc(sizeof(*t));
    size_t n = m->n_files + (m->base ? m->base->n_files : 0);
    int r = 0;

    if (!t)
        return -ENOMEM;
    *t = *m;
    t->files = NULL;
    t->n_files = 0;
    t->base = NULL;
    if (m->files) {
        t->files = calloc(n + 1, sizeof(*t->files));
        t->plaintext_bytes = 0;
        r = t->files ? tree_merge(m, t) : -ENOMEM;
    }
    t->has_tags_sha256 &= !m->base;
    if (r < 0)
        return r;
    *ret = TAKE_PTR(t);
    return 0;
}

/* -- judging --------------------------------------------------------------------------------------------- */
static int overlay_compare_chunks(const void *a, const void *b)
{
    const struct tbenc_file *x = *(const struct tbenc_file *const *)a,
                            *y = *(const struct tbenc_file *const *)b;

    return x->chunk < y->chunk ? -1 : x->chunk > y->chunk;
}

/* No record is taken twice: one descriptor for each run of the base is enough for who opens it. */
static int overlay_check_runs(const struct tbenc_manifest *m, struct tbenc_error *e)
{
    const struct tbenc_base *b = m->base;
    _cleanup_free_ const struct tbenc_file **by_chunk = calloc(b->n_files + 1, sizeof(*by_chunk));

    if (!by_chunk)
        return tbenc_fail(e, -ENOMEM, "manifest: out of memory");
    for (size_t i = 0; i < b->n_files; i++) {
        by_chunk[i] = &b->files[i];
        if (b->files[i].bytes == 0 || b->files[i].bytes > TBENC_PLAINTEXT_MAX ||
            b->files[i].chunk > TBENC_PLAINTEXT_MAX)
            return tbenc_fail(e, -EBADMSG, "manifest: base.files[%zu]: an empty file, or one out of range",
                              i);
    }
    qsort(by_chunk, b->n_files, sizeof(*by_chunk), overlay_compare_chunks);
    for (size_t i = 1; i < b->n_files; i++)
        if (by_chunk[i]->chunk - by_chunk[i - 1]->chunk <
            tbenc_chunks_of(by_chunk[i - 1]->bytes, m->chunk_bytes))
            return tbenc_fail(e, -EBADMSG, "manifest: base.files: \"%.200s\" and \"%.200s\" share records",
                              by_chunk[i - 1]->path, by_chunk[i]->path);
    return 0;
}

int tbenc_overlay_check(const struct tbenc_manifest *m, struct tbenc_error *e)
{
    _cleanup_(overlay_manifest_freep) struct tbenc_manifest *tree = NULL;
    struct tbenc_error inner = {.chunk = TBENC_NO_CHUNK};
    int r;

    if (!m->base)
        return 0;
    for (size_t i = 1; i < m->base->n_files; i++)
        if (strcmp(m->base->files[i - 1].path, m->base->files[i].path) >= 0)
            return tbenc_fail(e, -EBADMSG,
                              "manifest: base.files[%zu]: paths are not sorted and unique at \"%.200s\"", i,
                              m->base->files[i].path);
    r = overlay_check_runs(m, e);
    if (r >= 0)
        r = tbenc_manifest_tree(m, &tree);
    if (r == -EFBIG)
        return tbenc_fail(e, -EBADMSG, "manifest: sizes add up to more than %llu",
                          (unsigned long long)TBENC_PLAINTEXT_MAX);
    if (r == -ENOMEM)
        return tbenc_fail(e, r, "manifest: out of memory");
    if (r < 0)
        return r;
    r = tbenc_layout_check(tree, &inner);
    if (r < 0)
        return tbenc_fail(e, r, "manifest: with those of the base: %.400s",
                          inner.message + strlen("manifest: "));
    return tree->n_files ? 0 : tbenc_fail(e, -EBADMSG, "manifest: an overlay that leaves no file");
}
