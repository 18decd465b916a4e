/* SPDX-License-Identifier: Apache-2.0 */
#include "backup/seal.h"

#include <openssl/cms.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <string.h>

#include "common/io.h"
#include "common/secret.h"

/* PBKDF2 with HMAC-SHA1, which is what OpenSSL has for CMS: about a second. */
#define PASSPHRASE_ITERATIONS 2000000
#define PEM_FILE_MAX (256UL * 1024)

static void seal_free_bio(BIO **b)
{
    BIO_free(*b);
}
static void seal_free_cms(CMS_ContentInfo **c)
{
    CMS_ContentInfo_free(*c);
}
static void seal_free_x509(X509 **x)
{
    X509_free(*x);
}
static void seal_free_key(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}
#define _cleanup_bio_ _cleanup_(seal_free_bio)
#define _cleanup_cms_ _cleanup_(seal_free_cms)
#define _cleanup_x509_ _cleanup_(seal_free_x509)
#define _cleanup_pkey_ _cleanup_(seal_free_key)

static int seal_fail(char *err, int r, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *why = e ? ERR_reason_error_string(e) : NULL;

    snprintf(err, BACKUP_ERR_MAX, "%s%s%s", what, why ? ": " : "", why ? why : "");
    ERR_clear_error();
    return r;
}

/* Nobody is asked for the passphrase of a key. */
static int seal_no_password(char *buf, int size, int writing, void *arg)
{
    return -1;
}

static int seal_read_pem(const char *path, BIO **ret, char **ret_text, char *err)
{
    size_t n;
    int r = tb_read_file(path, PEM_FILE_MAX, ret_text, &n);

    if (r < 0) {
        snprintf(err, BACKUP_ERR_MAX, "%s: %s", path, strerror(-r));
        return r;
    }
    *ret = BIO_new_mem_buf(*ret_text, (int)n);
    return *ret ? 0 : seal_fail(err, -ENOMEM, path);
}

static int seal_read_certificate(const char *path, X509 **ret, char *err)
{
    _cleanup_free_ char *text = NULL;
    _cleanup_bio_ BIO *b = NULL;
    int r = seal_read_pem(path, &b, &text, err);

    if (r < 0)
        return r;
    *ret = PEM_read_bio_X509(b, NULL, seal_no_password, NULL);
    if (!*ret) {
        ERR_clear_error();
        snprintf(err, BACKUP_ERR_MAX, "%s: no certificate in PEM", path);
        return -EINVAL;
    }
    return 0;
}

static int seal_read_key(const char *path, EVP_PKEY **ret, char *err)
{
    _cleanup_erase_string_ char *text = NULL;
    _cleanup_bio_ BIO *b = NULL;
    int r = seal_read_pem(path, &b, &text, err);

    if (r < 0)
        return r;
    *ret = PEM_read_bio_PrivateKey(b, NULL, seal_no_password, NULL);
    if (!*ret) {
        ERR_clear_error();
        snprintf(err, BACKUP_ERR_MAX, "%s: no private key in PEM without a passphrase", path);
        return -EINVAL;
    }
    return 0;
}

static int seal_output(BIO *b, char **ret, size_t *ret_len)
{
    char *data;
    long n = BIO_get_mem_data(b, &data);

    *ret = malloc((size_t)n + 1);
    if (!*ret)
        return -ENOMEM;
    memcpy(*ret, data, (size_t)n);
    (*ret)[n] = '\0';
    *ret_len = (size_t)n;
    return 0;
}

static int seal_add_recipient(CMS_ContentInfo *cms, const struct backup_key *key, char *err)
{
    _cleanup_x509_ X509 *cert = NULL;
    _cleanup_erase_string_ char *pass = NULL;
    int r;

    if (key->certificate) {
        r = seal_read_certificate(key->certificate, &cert, err);
        if (r < 0)
            return r;
        return CMS_add1_recipient_cert(cms, cert, 0) ? 0 : seal_fail(err, -EINVAL, key->certificate);
    }
    pass = strdup(key->passphrase);
    if (!pass ||
        !CMS_add0_recipient_password(cms, PASSPHRASE_ITERATIONS, NID_id_alg_PWRI_KEK, NID_undef,
                                     (unsigned char *)pass, (ossl_ssize_t)strlen(pass), EVP_aes_256_cbc()))
        return seal_fail(err, -ENOMEM, "the passphrase");
    pass = NULL; /* cms has it, and wipes it */
    return 0;
}

int backup_seal(const char *plain, size_t len, const struct backup_key *key, char **ret, size_t *ret_len,
                char err[static BACKUP_ERR_MAX])
{
    _cleanup_bio_ BIO *in = BIO_new_mem_buf(plain, (int)len), *out = BIO_new(BIO_s_mem());
    _cleanup_cms_ CMS_ContentInfo *cms = CMS_encrypt(NULL, NULL, EVP_aes_256_gcm(), CMS_PARTIAL | CMS_BINARY);
    int r = in && out && cms ? 0 : seal_fail(err, -ENOMEM, "encryption");

    if (r == 0)
        r = seal_add_recipient(cms, key, err);
    if (r == 0 && (!CMS_final(cms, in, NULL, CMS_BINARY) || i2d_CMS_bio(out, cms) != 1))
        r = seal_fail(err, -EIO, "encryption");
    if (r == 0)
        r = seal_output(out, ret, ret_len);
    return r;
}

int backup_unseal(const char *sealed, size_t len, const struct backup_key *key, char **ret, size_t *ret_len,
                  char err[static BACKUP_ERR_MAX])
{
    _cleanup_bio_ BIO *in = BIO_new_mem_buf(sealed, (int)len), *out = BIO_new(BIO_s_secmem());
    _cleanup_cms_ CMS_ContentInfo *cms = in ? d2i_CMS_bio(in, NULL) : NULL;
    _cleanup_pkey_ EVP_PKEY *pkey = NULL;
    _cleanup_erase_string_ char *pass = NULL;
    int r = 0, good;

    if (!in || !out)
        return seal_fail(err, -ENOMEM, "decryption");
    if (!cms)
        return seal_fail(err, -EBADMSG, "the encrypted part is damaged");
    if (key->key) {
        r = seal_read_key(key->key, &pkey, err);
        good = r == 0 && CMS_decrypt_set1_pkey(cms, pkey, NULL);
    } else {
        pass = strdup(key->passphrase);
        good = pass && CMS_decrypt_set1_password(cms, (unsigned char *)pass, (ossl_ssize_t)strlen(pass));
    }
    if (r < 0)
        return r;
    if (!good || !CMS_decrypt(cms, NULL, NULL, NULL, out, CMS_BINARY)) {
        ERR_clear_error();
        snprintf(err, BACKUP_ERR_MAX, "the credentials in it are not for this %s, or were changed",
                 key->key ? "key" : "passphrase");
        return -EKEYREJECTED;
    }
    return seal_output(out, ret, ret_len);
}
