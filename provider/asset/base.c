/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/base.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/cli/progress.h"

#define COMPARE_BYTES (1 << 20)

void asset_base_clear(struct asset_base *b)
{
    b->manifest = tbenc_manifest_free(b->manifest);
    free(b->stands.files);
    free(b->own);
    *b = (struct asset_base){0};
}

int asset_base_parse(const char *text, const char *asset_id, uint64_t *ret_version)
{
    const char *at = strrchr(text, '@');
    size_t n = at ? (size_t)(at - text) : 0;

    if (at && n == strlen(asset_id) && memcmp(text, asset_id, n) == 0 &&
        tb_uint_parse(at + 1, 1, TBENC_PLAINTEXT_MAX, ret_version) == 0)
        return CLI_OK;
    return tbpkg_failf(text, "is not a version of asset '%s', as in %s@1", asset_id, asset_id);
}

static int base_judge(const char *path, const char *asset_id, const struct tbenc_manifest *m)
{
    const char *why = strcmp(m->asset_id, asset_id) != 0 ? "is of another asset"
                      : m->base                          ? "is of an overlay itself"
                      : !m->files                        ? "is of one file, without a table of files"
                      : !m->has_tags_sha256 || !m->has_key_id
                          ? "was made by another tool, without tags_sha256 or key_id"
                          : NULL;

    return why ? tbpkg_fail(path, why,
                            m->base ? "name the version that this one stands on"
                                    : "publish the whole model as a new version")
               : CLI_OK;
}

int asset_base_read(const char *path, const char *asset_id, uint64_t version, struct asset_base *ret)
{
    _cleanup_free_ char *text = NULL;
    struct tbenc_base *s = &ret->stands;
    size_t len;
    int rc = asset_manifest_read(path, TBENC_OVERLAY, &ret->manifest), r;

    if (rc == CLI_OK)
        rc = base_judge(path, asset_id, ret->manifest);
    if (rc != CLI_OK)
        return rc;
    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(path, r);
    ret->version = s->version = version;
    memcpy(s->sha256_ciphertext, ret->manifest->sha256_ciphertext, TBENC_SHA256_BYTES);
    memcpy(s->tags_sha256, ret->manifest->tags_sha256, TBENC_SHA256_BYTES);
    if (EVP_Digest(text, len, s->manifest_sha256, NULL, EVP_sha256(), NULL) != 1 ||
        tb_random(s->salt, sizeof(s->salt)) < 0)
        return tbpkg_fail_errno(path, -EIO);
    return CLI_OK;
}

static bool base_has_size(const struct tbenc_manifest *m, uint64_t bytes)
{
    for (size_t i = 0; i < m->n_files; i++)
        if (m->files[i].bytes == bytes)
            return bytes > 0;
    return false;
}

/* At offsets: who seals it reads it from where it stands. */
static int base_hash(const struct tbenc_input *in, uint8_t *buf, struct cli_progress *p, uint64_t *done,
                     uint64_t total, uint8_t ret[static TBENC_SHA256_BYTES])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    int r = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;

    for (uint64_t off = 0; r == 0 && off < in->bytes;) {
        ssize_t n = tb_pread_full(in->fd, buf, (size_t)MIN(in->bytes - off, (uint64_t)COMPARE_BYTES), off);

        if (n <= 0)
            r = n < 0 ? (int)n : -ESTALE;
        else if (EVP_DigestUpdate(md, buf, (size_t)n) != 1)
            r = -EIO;
        off += n > 0 ? (uint64_t)n : 0;
        *done += n > 0 ? (uint64_t)n : 0;
        if (r == 0 && cli_progress(p, *done, total) != 0)
            r = -ECANCELED;
    }
    if (r == 0 && EVP_DigestFinal_ex(md, ret, NULL) != 1)
        r = -EIO;
    EVP_MD_CTX_free(md);
    return r;
}

/* The base's file with these contents, unless it was taken. */
static const struct tbenc_file *base_take(const struct tbenc_manifest *m, bool *taken,
                                          const struct tbenc_input *in,
                                          const uint8_t sha256[static TBENC_SHA256_BYTES])
{
    for (size_t i = 0; i < m->n_files; i++)
        if (!taken[i] && m->files[i].bytes == in->bytes &&
            memcmp(m->files[i].sha256, sha256, TBENC_SHA256_BYTES) == 0) {
            taken[i] = true;
            return &m->files[i];
        }
    return NULL;
}

static int base_deal(struct asset_base *b, const struct model_source *s, bool *taken, uint8_t *buf,
                     struct cli_progress *p)
{
    uint64_t done = 0, total = 0;

    for (size_t i = 0; i < s->dir.n; i++)
        total += base_has_size(b->manifest, s->dir.inputs[i].bytes) ? s->dir.inputs[i].bytes : 0;
    for (size_t i = 0; i < s->dir.n; i++) {
        const struct tbenc_input *in = &s->dir.inputs[i];
        const struct tbenc_file *f = NULL;
        uint8_t sha256[TBENC_SHA256_BYTES];

        if (base_has_size(b->manifest, in->bytes)) {
            int r = base_hash(in, buf, p, &done, total, sha256);

            if (r < 0)
                return tbpkg_fail_errno(in->path, r);
            f = base_take(b->manifest, taken, in, sha256);
        }
        if (!f) {
            b->own[b->n_own++] = *in;
            continue;
        }
        b->stands.files[b->stands.n_files] = *f;
        b->stands.files[b->stands.n_files].path = (char *)in->path;
        b->stands.files[b->stands.n_files++].mode = in->mode;
    }
    cli_progress_finish(p, total);
    return CLI_OK;
}

/* Nothing was changed, renamed, added or removed. */
static bool base_is_all(const struct asset_base *b)
{
    size_t n = b->manifest->n_files, empty = 0;

    for (size_t i = 0; i < b->stands.n_files; i++) {
        const struct tbenc_file *f = &b->stands.files[i];
        size_t k = 0;

        while (k < n && b->manifest->files[k].chunk != f->chunk)
            k++;
        while (k < n && b->manifest->files[k].bytes == 0)
            k++;
        if (k == n || strcmp(b->manifest->files[k].path, f->path) != 0 ||
            b->manifest->files[k].mode != f->mode)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        empty += b->manifest->files[i].bytes == 0;
    return b->n_own == empty && b->stands.n_files + empty == n;
}

int asset_base_compare(struct asset_base *b, const struct model_source *s, bool quiet)
{
    _cleanup_free_ bool *taken = calloc(b->manifest->n_files, sizeof(*taken));
    _cleanup_free_ uint8_t *buf = malloc(COMPARE_BYTES);
    struct cli_progress p;
    int rc;

    if (!s->is_dir)
        return tbpkg_fail(s->path, "is one file, and an overlay is made from a directory",
                          "name the directory of the model");
    b->own = calloc(s->dir.n + 1, sizeof(*b->own));
    b->stands.files = calloc(s->dir.n + 1, sizeof(*b->stands.files));
    if (!taken || !buf || !b->own || !b->stands.files)
        return tbpkg_fail_errno(s->path, -ENOMEM);
    p = cli_progress_start(quiet, "Comparing", s->bytes);
    rc = base_deal(b, s, taken, buf, &p);
    if (rc != CLI_OK)
        return rc;
    if (base_is_all(b))
        return tbpkg_failf(s->path, "is what version %llu is already: there is nothing to publish",
                           (unsigned long long)b->version);
    return CLI_OK;
}
