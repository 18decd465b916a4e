/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/image/approve.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <string.h>

#include "common/tpm_approval.h"
#include "common/tpm_key.h"

/* What the firmware started, what that was made of, and that nothing was added. PCR 11 alone would be no
 * word: any loader may extend it as the image's own does. */
#define APPROVE_PCRS (1U << 4 | 1U << 11 | 1U << 12 | 1U << 13 | 1U << 14)
/* And, where the image's document names it, that the firmware ran no driver before it: who has one there is
 * in the kernel while all the others are good. */
#define APPROVE_DRIVERS (1U << 2)

static int approve_fail(char *err, int r, const char *why)
{
    snprintf(err, APPROVE_ERR_MAX, "%s", why);
    ERR_clear_error();
    return r;
}

static void approve_key_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static void approve_bio_freep(BIO **b)
{
    BIO_free(*b);
}

static void approve_context_freep(EVP_MD_CTX **c)
{
    EVP_MD_CTX_free(*c);
}

/* A key with a password is asked for by nobody: a build has no terminal. */
static int approve_no_password(char *buf, int size, int rwflag, void *u)
{
    return -1;
}

static int approve_boot(const struct measured *m, const uint8_t pcr4[static PE_DIGEST_BYTES], EVP_PKEY *key,
                        struct tb_tpm_approval *ret)
{
    _cleanup_(approve_context_freep) EVP_MD_CTX *c = EVP_MD_CTX_new();
    struct tb_tpm_pcrs pcrs = {0};
    size_t n = sizeof(ret->signature);

    memcpy(pcrs.v[2], m->pcr2_bare, PE_DIGEST_BYTES);
    memcpy(pcrs.v[4], pcr4, PE_DIGEST_BYTES);
    memcpy(pcrs.v[11], m->pcr11_early, PE_DIGEST_BYTES);
    ret->mask = APPROVE_PCRS | (m->no_drivers ? APPROVE_DRIVERS : 0);
    tb_tpm_pcrs_policy(ret->mask, &pcrs, ret->policy);
    return c && EVP_DigestSignInit(c, NULL, EVP_sha256(), NULL, key) == 1 &&
                   EVP_DigestSign(c, ret->signature, &n, ret->policy, sizeof(ret->policy)) == 1 &&
                   n == sizeof(ret->signature)
               ? 0
               : -EIO;
}

int approve_image(const struct measured *m, const char *pem, size_t len, cJSON **ret,
                  char err[static APPROVE_ERR_MAX])
{
    _cleanup_(approve_bio_freep) BIO *b = BIO_new_mem_buf(pem, (int)len);
    _cleanup_(approve_key_freep) EVP_PKEY *key =
        b ? PEM_read_bio_PrivateKey(b, NULL, approve_no_password, NULL) : NULL;
    struct tb_tpm_approvals a = {.n = 2};

    if (!key)
        return approve_fail(err, -EINVAL, "not a private key in PEM without a password");
    if (!EVP_PKEY_is_a(key, "RSA") || EVP_PKEY_get_bits(key) != 8 * TB_SIGNER_BYTES)
        return approve_fail(err, -EINVAL,
                            "must be RSA with 2048 bits, which every TPM verifies: "
                            "openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048");
    if (approve_boot(m, m->pcr4_secure, key, &a.v[0]) < 0 || approve_boot(m, m->pcr4_open, key, &a.v[1]) < 0)
        return approve_fail(err, -EIO, "does not sign");
    *ret = tb_tpm_approvals_describe(&a);
    return *ret ? 0 : approve_fail(err, -ENOMEM, "out of memory");
}
