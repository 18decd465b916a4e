/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/wrap.h"

#include <openssl/evp.h>
#include <string.h>

static void wrap_cipher_freep(EVP_CIPHER_CTX **c)
{
    EVP_CIPHER_CTX_free(*c);
}

int cp_key_wrap(const struct tb_key *master, const char *asset_id, const struct tb_key *key,
                uint8_t out[static CP_WRAPPED_KEY_BYTES])
{
    _cleanup_(wrap_cipher_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    uint8_t *ct = out + CP_WRAP_NONCE_BYTES, *tag = ct + TB_KEY_BYTES;
    int n, r;

    if (!c)
        return -ENOMEM;
    r = tb_random(out, CP_WRAP_NONCE_BYTES);
    if (r < 0)
        return r;
    if (EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, master->b, out) != 1 ||
        EVP_EncryptUpdate(c, NULL, &n, (const uint8_t *)asset_id, (int)strlen(asset_id)) != 1 ||
        EVP_EncryptUpdate(c, ct, &n, key->b, TB_KEY_BYTES) != 1 || EVP_EncryptFinal_ex(c, tag, &n) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, CP_WRAP_TAG_BYTES, tag) != 1)
        return -EIO;
    return 0;
}

int cp_key_unwrap(const struct tb_key *master, const char *asset_id,
                  const uint8_t in[static CP_WRAPPED_KEY_BYTES], struct tb_key *ret)
{
    _cleanup_(wrap_cipher_freep) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    const uint8_t *ct = in + CP_WRAP_NONCE_BYTES;
    uint8_t tag[CP_WRAP_TAG_BYTES];
    _cleanup_key_ struct tb_key key;
    int n;

    if (!c)
        return -ENOMEM;
    memcpy(tag, ct + TB_KEY_BYTES, sizeof(tag));
    if (EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, master->b, in) != 1 ||
        EVP_DecryptUpdate(c, NULL, &n, (const uint8_t *)asset_id, (int)strlen(asset_id)) != 1 ||
        EVP_DecryptUpdate(c, key.b, &n, ct, TB_KEY_BYTES) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, CP_WRAP_TAG_BYTES, tag) != 1)
        return -EIO;
    if (EVP_DecryptFinal_ex(c, key.b + TB_KEY_BYTES, &n) != 1)
        return -EBADMSG;
    *ret = key;
    return 0;
}
