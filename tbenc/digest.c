/* SPDX-License-Identifier: Apache-2.0 */
#include "tbenc/digest.h"

#include <string.h>

int tbenc_sha256_init(struct tbenc_sha256 *h)
{
    if (!h->ctx)
        h->ctx = EVP_MD_CTX_new();
    if (!h->ctx)
        return -ENOMEM;
    return EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) == 1 ? 0 : -EIO;
}

int tbenc_sha256_update(struct tbenc_sha256 *h, const void *buf, size_t n)
{
    return EVP_DigestUpdate(h->ctx, buf, n) == 1 ? 0 : -EIO;
}

int tbenc_sha256_final(struct tbenc_sha256 *h, uint8_t out[TBENC_SHA256_BYTES])
{
    return EVP_DigestFinal_ex(h->ctx, out, NULL) == 1 ? 0 : -EIO;
}

void tbenc_sha256_done(struct tbenc_sha256 *h)
{
    EVP_MD_CTX_free(h->ctx);
    h->ctx = NULL;
}

int tbenc_filehash_init(struct tbenc_filehash *f, size_t n_files)
{
    *f = (struct tbenc_filehash){.n_files = n_files};
    f->out = calloc(n_files, sizeof(*f->out));
    return f->out ? tbenc_sha256_init(&f->h) : -ENOMEM;
}

/* Finishes the files before `file`. */
static int digest_advance(struct tbenc_filehash *f, size_t file)
{
    int r = 0;

    for (; r >= 0 && f->file < file; f->file++) {
        r = tbenc_sha256_final(&f->h, f->out[f->file]);
        if (r >= 0)
            r = tbenc_sha256_init(&f->h);
    }
    return r;
}

int tbenc_filehash_batch(struct tbenc_filehash *f, const struct tbenc_batch *b)
{
    int r = 0;

    for (unsigned i = 0; r >= 0 && i < b->n; i++) {
        r = digest_advance(f, b->rec[i].file);
        if (r >= 0)
            r = tbenc_sha256_update(&f->h, b->pt + tbenc_batch_pt(b, i), b->rec[i].pt_len);
    }
    return r;
}

int tbenc_filehash_final(struct tbenc_filehash *f)
{
    return digest_advance(f, f->n_files);
}

void tbenc_filehash_done(struct tbenc_filehash *f)
{
    tbenc_sha256_done(&f->h);
    free(f->out);
    f->out = NULL;
}

int tbenc_key_id(const uint8_t key[TBENC_KEY_BYTES], uint8_t ret[TBENC_KEY_ID_BYTES])
{
    static const char label[] = "tbenc key id v1"; /* its NUL is hashed, too */
    uint8_t digest[TBENC_SHA256_BYTES];
    struct tbenc_sha256 h = {0};
    int r = tbenc_sha256_init(&h);

    if (r >= 0)
        r = tbenc_sha256_update(&h, label, sizeof(label));
    if (r >= 0)
        r = tbenc_sha256_update(&h, key, TBENC_KEY_BYTES);
    if (r >= 0)
        r = tbenc_sha256_final(&h, digest);
    tbenc_sha256_done(&h);
    if (r >= 0)
        memcpy(ret, digest, TBENC_KEY_ID_BYTES);
    return r < 0 ? r : 0;
}
