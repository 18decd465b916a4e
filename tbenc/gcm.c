/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing and opening one record: tbenc(5), section RECORDS. The AAD is the first 19 bytes of the header (all
 * but the reserved ones), the index and the length; the nonce is the header's prefix and the index. */
#include <string.h>

#include "tbenc/internal.h"

enum { AAD_HEADER = 19, AAD_INDEX = 19, AAD_LEN = 27, IV_INDEX = 4 };

int tbenc_gcm_init(struct tbenc_gcm *g, const struct tbenc_header *h, const uint8_t *key, bool encrypt)
{
    g->ctx = EVP_CIPHER_CTX_new();
    if (!g->ctx)
        return -ENOMEM;
    if (EVP_CipherInit_ex(g->ctx, EVP_aes_256_gcm(), NULL, key, NULL, encrypt) != 1) {
        tbenc_gcm_done(g);
        return -EIO;
    }
    tbenc_gcm_set_header(g, h);
    return 0;
}

void tbenc_gcm_set_header(struct tbenc_gcm *g, const struct tbenc_header *h)
{
    uint8_t header[TBENC_HEADER_BYTES];

    tbenc_header_format(h, header);
    memcpy(g->aad, header, AAD_HEADER);
    memcpy(g->iv, h->nonce_prefix, sizeof(h->nonce_prefix));
}

void tbenc_gcm_done(struct tbenc_gcm *g)
{
    EVP_CIPHER_CTX_free(g->ctx); /* wipes the key schedule */
    g->ctx = NULL;
}

/* Sets the nonce and feeds the AAD; the key schedule stays. */
static int gcm_start(struct tbenc_gcm *g, uint64_t index, uint32_t n)
{
    int out;

    tbenc_put64(g->iv + IV_INDEX, index);
    tbenc_put64(g->aad + AAD_INDEX, index);
    tbenc_put32(g->aad + AAD_LEN, n);
    if (EVP_CipherInit_ex(g->ctx, NULL, NULL, NULL, g->iv, -1) != 1 ||
        EVP_CipherUpdate(g->ctx, NULL, &out, g->aad, sizeof(g->aad)) != 1)
        return -EIO;
    return 0;
}

int tbenc_gcm_seal(struct tbenc_gcm *g, uint64_t index, const uint8_t *pt, uint32_t n, uint8_t *rec)
{
    uint8_t *ct = rec + TBENC_LEN_BYTES;
    int out, r;

    r = gcm_start(g, index, n);
    if (r < 0)
        return r;
    tbenc_put32(rec, n);
    if (EVP_CipherUpdate(g->ctx, ct, &out, pt, (int)n) != 1 ||
        EVP_CipherFinal_ex(g->ctx, ct + n, &out) != 1 ||
        EVP_CIPHER_CTX_ctrl(g->ctx, EVP_CTRL_AEAD_GET_TAG, TBENC_TAG_BYTES, ct + n) != 1)
        return -EIO;
    return 0;
}

int tbenc_gcm_open_start(struct tbenc_gcm *g, uint64_t index, uint32_t n)
{
    return gcm_start(g, index, n);
}

int tbenc_gcm_open_update(struct tbenc_gcm *g, const uint8_t *ct, uint32_t n, uint8_t *pt)
{
    int out;

    return EVP_CipherUpdate(g->ctx, pt, &out, ct, (int)n) == 1 ? 0 : -EIO;
}

int tbenc_gcm_open_finish(struct tbenc_gcm *g, const uint8_t tag[TBENC_TAG_BYTES])
{
    uint8_t none[TBENC_TAG_BYTES];
    int out;

    if (EVP_CIPHER_CTX_ctrl(g->ctx, EVP_CTRL_AEAD_SET_TAG, TBENC_TAG_BYTES, (void *)tag) != 1)
        return -EIO;
    return EVP_CipherFinal_ex(g->ctx, none, &out) == 1 ? 0 : -EBADMSG;
}

int tbenc_gcm_open(struct tbenc_gcm *g, uint64_t index, const uint8_t *rec, uint32_t n, uint8_t *pt)
{
    const uint8_t *ct = rec + TBENC_LEN_BYTES;
    int r;

    r = tbenc_gcm_open_start(g, index, n);
    if (r >= 0)
        r = tbenc_gcm_open_update(g, ct, n, pt);
    if (r >= 0)
        r = tbenc_gcm_open_finish(g, ct + n);
    return r;
}
