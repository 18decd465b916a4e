/* SPDX-License-Identifier: Apache-2.0 */
#include "common/hpke.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/params.h>
#include <string.h>

#include "common/macros.h"
#include "common/secret.h"

#define HASH_BYTES 32
#define KEY_BYTES 32
#define NONCE_BYTES 12
/* The longest text of a label: its length, "HPKE-v1", the suite, the label, and what it is about. */
#define TEXT_MAX (2 + 7 + 10 + 16 + TB_HPKE_INFO_MAX)

/* RFC 9180, 7.1 to 7.3: the numbers of the KEM, the KDF and the AEAD. */
static const uint8_t kem_suite[] = {'K', 'E', 'M', 0x00, 0x10};
static const uint8_t hpke_suite[] = {'H', 'P', 'K', 'E', 0x00, 0x10, 0x00, 0x01, 0x00, 0x02};

struct suite {
    const uint8_t *id;
    size_t len;
};
static const struct suite kem = {kem_suite, sizeof(kem_suite)}, hpke = {hpke_suite, sizeof(hpke_suite)};

struct text {
    uint8_t b[TEXT_MAX + HASH_BYTES + 1];
    size_t n;
};

static void text_wipe(struct text *t)
{
    tb_erase(t, sizeof(*t));
}

static void text_add(struct text *t, const void *p, size_t n)
{
    if (n > 0)
        memcpy(t->b + t->n, p, n);
    t->n += n;
}

static int hash_keyed(const uint8_t *key, size_t key_len, const struct text *t,
                      uint8_t out[static HASH_BYTES])
{
    unsigned len = HASH_BYTES;

    return HMAC(EVP_sha256(), key, (int)key_len, t->b, t->n, out, &len) ? 0 : -EIO;
}

/* LabeledExtract() of RFC 9180, 4. salt NULL: none. */
static int labeled_extract(struct suite s, const uint8_t *salt, const char *label, const void *ikm, size_t n,
                           uint8_t out[static HASH_BYTES])
{
    static const uint8_t none[HASH_BYTES];
    _cleanup_(text_wipe) struct text t = {.n = 0};

    text_add(&t, "HPKE-v1", 7);
    text_add(&t, s.id, s.len);
    text_add(&t, label, strlen(label));
    text_add(&t, ikm, n);
    return hash_keyed(salt ? salt : none, HASH_BYTES, &t, out);
}

/* LabeledExpand(), of at most one block of the hash: nothing here is longer. */
static int labeled_expand(struct suite s, const uint8_t prk[static HASH_BYTES], const char *label,
                          const void *info, size_t info_len, uint8_t *out, size_t n)
{
    _cleanup_(text_wipe) struct text t = {.n = 0};
    uint8_t block[HASH_BYTES];
    const uint8_t length[2] = {(uint8_t)(n >> 8), (uint8_t)n}, first = 1;
    int r;

    text_add(&t, length, sizeof(length));
    text_add(&t, "HPKE-v1", 7);
    text_add(&t, s.id, s.len);
    text_add(&t, label, strlen(label));
    text_add(&t, info, info_len);
    text_add(&t, &first, 1);
    r = hash_keyed(prk, HASH_BYTES, &t, block);
    memcpy(out, block, n);
    tb_erase(block, sizeof(block));
    return r;
}

struct schedule {
    uint8_t key[KEY_BYTES], nonce[NONCE_BYTES];
    uint8_t eae[HASH_BYTES], shared[HASH_BYTES], secret[HASH_BYTES]; /* on the way */
};

static void schedule_wipe(struct schedule *k)
{
    tb_erase(k, sizeof(*k));
}

/* ExtractAndExpand() of the KEM (4.1), then KeySchedule() (5.1) of mode base. */
static int schedule_make(struct schedule *k, const uint8_t *z, const uint8_t *enc, const uint8_t *pk,
                         const void *info, size_t info_len)
{
    uint8_t kem_context[2 * TB_P256_POINT_BYTES], context[1 + 2 * HASH_BYTES] = {0};
    int r;

    memcpy(kem_context, enc, TB_P256_POINT_BYTES);
    memcpy(kem_context + TB_P256_POINT_BYTES, pk, TB_P256_POINT_BYTES);
    r = labeled_extract(kem, NULL, "eae_prk", z, TB_P256_COORDINATE_BYTES, k->eae);
    if (r == 0)
        r = labeled_expand(kem, k->eae, "shared_secret", kem_context, sizeof(kem_context), k->shared,
                           HASH_BYTES);
    if (r == 0)
        r = labeled_extract(hpke, NULL, "psk_id_hash", "", 0, context + 1);
    if (r == 0)
        r = labeled_extract(hpke, NULL, "info_hash", info, info_len, context + 1 + HASH_BYTES);
    if (r == 0)
        r = labeled_extract(hpke, k->shared, "secret", "", 0, k->secret);
    if (r == 0)
        r = labeled_expand(hpke, k->secret, "key", context, sizeof(context), k->key, KEY_BYTES);
    if (r == 0)
        r = labeled_expand(hpke, k->secret, "base_nonce", context, sizeof(context), k->nonce, NONCE_BYTES);
    return r;
}

static void hpke_keyp(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static void hpke_key_ctxp(EVP_PKEY_CTX **c)
{
    EVP_PKEY_CTX_free(*c);
}

static void hpke_cipherp(EVP_CIPHER_CTX **c)
{
    EVP_CIPHER_CTX_free(*c);
}

/* NULL: no point of the curve, or no memory. */
static EVP_PKEY *point_read(const uint8_t pk[static TB_P256_POINT_BYTES])
{
    _cleanup_(hpke_key_ctxp) EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    _cleanup_(hpke_keyp) EVP_PKEY *k = NULL;
    _cleanup_(hpke_key_ctxp) EVP_PKEY_CTX *check = NULL;
    OSSL_PARAM p[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)"P-256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)pk, TB_P256_POINT_BYTES),
        OSSL_PARAM_construct_end()};

    if (pk[0] != POINT_CONVERSION_UNCOMPRESSED || !c || EVP_PKEY_fromdata_init(c) != 1 ||
        EVP_PKEY_fromdata(c, &k, EVP_PKEY_PUBLIC_KEY, p) != 1)
        return NULL;
    check = EVP_PKEY_CTX_new(k, NULL);
    return check && EVP_PKEY_public_check(check) == 1 ? TAKE_PTR(k) : NULL;
}

/* A key pair for this message: its public key, and z of the two. */
static int encapsulate(EVP_PKEY *to, uint8_t enc[static TB_P256_POINT_BYTES],
                       uint8_t z[static TB_P256_COORDINATE_BYTES])
{
    _cleanup_(hpke_keyp) EVP_PKEY *own = EVP_EC_gen("P-256");
    _cleanup_(hpke_key_ctxp) EVP_PKEY_CTX *c = own ? EVP_PKEY_CTX_new(own, NULL) : NULL;
    size_t z_len = TB_P256_COORDINATE_BYTES, enc_len = 0;

    if (!c || EVP_PKEY_derive_init(c) != 1 || EVP_PKEY_derive_set_peer(c, to) != 1 ||
        EVP_PKEY_derive(c, z, &z_len) != 1 || z_len != TB_P256_COORDINATE_BYTES ||
        EVP_PKEY_get_octet_string_param(own, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, enc, TB_P256_POINT_BYTES,
                                        &enc_len) != 1 ||
        enc_len != TB_P256_POINT_BYTES)
        return -EIO;
    return 0;
}

static int message_encrypt(const struct schedule *k, const uint8_t *pt, size_t n, uint8_t *ct)
{
    _cleanup_(hpke_cipherp) EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    int len;

    if (!c || EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, k->key, k->nonce) != 1 ||
        EVP_EncryptUpdate(c, ct, &len, pt, (int)n) != 1 || EVP_EncryptFinal_ex(c, ct + n, &len) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_GET_TAG, TB_HPKE_TAG_BYTES, ct + n) != 1)
        return -EIO;
    return 0;
}

int tb_hpke_seal(const uint8_t pk[static TB_P256_POINT_BYTES], const void *info, size_t info_len,
                 const uint8_t *pt, size_t n, uint8_t ret_enc[static TB_P256_POINT_BYTES], uint8_t *ct)
{
    _cleanup_(schedule_wipe) struct schedule k = {0};
    _cleanup_(hpke_keyp) EVP_PKEY *to = NULL;
    uint8_t z[TB_P256_COORDINATE_BYTES];
    int r;

    if (info_len > TB_HPKE_INFO_MAX || n > TB_HPKE_INFO_MAX)
        return -EINVAL;
    to = point_read(pk);
    if (!to)
        return -EINVAL;
    r = encapsulate(to, ret_enc, z);
    if (r == 0)
        r = schedule_make(&k, z, ret_enc, pk, info, info_len);
    tb_erase(z, sizeof(z));
    return r == 0 ? message_encrypt(&k, pt, n, ct) : r;
}

int tb_hpke_open(const uint8_t z[static TB_P256_COORDINATE_BYTES],
                 const uint8_t enc[static TB_P256_POINT_BYTES], const uint8_t pk[static TB_P256_POINT_BYTES],
                 const void *info, size_t info_len, const uint8_t *ct, size_t ct_len, uint8_t *pt)
{
    _cleanup_(schedule_wipe) struct schedule k = {0};
    _cleanup_(hpke_cipherp) EVP_CIPHER_CTX *c = NULL;
    size_t n = ct_len - TB_HPKE_TAG_BYTES;
    int len, r;

    if (ct_len < TB_HPKE_TAG_BYTES || n > TB_HPKE_INFO_MAX || info_len > TB_HPKE_INFO_MAX)
        return -EINVAL;
    r = schedule_make(&k, z, enc, pk, info, info_len);
    if (r < 0)
        return r;
    c = EVP_CIPHER_CTX_new();
    if (!c || EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, k.key, k.nonce) != 1 ||
        EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_AEAD_SET_TAG, TB_HPKE_TAG_BYTES, (void *)(ct + n)) != 1)
        return -EIO;
    if (EVP_DecryptUpdate(c, pt, &len, ct, (int)n) == 1 && EVP_DecryptFinal_ex(c, pt + n, &len) == 1)
        return 0;
    tb_erase(pt, n);
    return -EBADMSG;
}
