/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/identity/authority.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define AUTHORITY_PEM_MAX (64 * 1024)
#define AUTHORITY_BACKDATE_S 3600 /* for peers whose clock is behind */
#define AUTHORITY_RSA_BITS_MIN 2048
#define AUTHORITY_RSA_BITS_MAX 4096 /* a stranger's request must not cost more than this to check */
#define AUTHORITY_NAME_HEX 32
/* For the PEM readers: a block that says that it is encrypted is no good. Without it they ask the terminal,
 * or standard input, and wait. */
#define AUTHORITY_NO_PASSPHRASE NULL, (void *)""

static void authority_x509_freep(X509 **x)
{
    X509_free(*x);
}
static void authority_req_freep(X509_REQ **x)
{
    X509_REQ_free(*x);
}
static void authority_bio_freep(BIO **b)
{
    BIO_free(*b);
}
static void authority_store_freep(X509_STORE **s)
{
    X509_STORE_free(*s);
}
static void authority_ctx_freep(X509_STORE_CTX **c)
{
    X509_STORE_CTX_free(*c);
}
static void authority_stack_freep(STACK_OF(X509) * *s)
{
    sk_X509_pop_free(*s, X509_free);
}

struct cp_authority {
    X509 *cert;
    EVP_PKEY *key;
    char *pem;
};

static int authority_fail(char *err, int r, const char *fmt, ...) _printf_(3, 4);
static int authority_fail(char *err, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(err, CP_AUTHORITY_ERR_MAX, fmt, ap);
    va_end(ap);
    return r;
}

/* -- who is there ------------------------------------------------------------------------------ */

/* The CAs of a PEM text; *ret_n of them. NULL: out of memory, or a certificate in it is none. */
static X509_STORE *authority_read_cas(const char *pem, size_t *ret_n)
{
    _cleanup_(authority_bio_freep) BIO *b = BIO_new_mem_buf(pem, -1);
    _cleanup_(authority_store_freep) X509_STORE *s = X509_STORE_new();
    size_t n = 0;

    while (b && s) {
        _cleanup_(authority_x509_freep) X509 *x = PEM_read_bio_X509(b, NULL, AUTHORITY_NO_PASSPHRASE);

        if (!x && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE)
            break; /* the end */
        if (!x || X509_check_ca(x) == 0 || X509_STORE_add_cert(s, x) != 1) {
            ERR_clear_error();
            return NULL;
        }
        n++;
    }
    ERR_clear_error();
    *ret_n = n;
    return n ? TAKE_PTR(s) : NULL;
}

size_t cp_ca_count(const char *pem)
{
    size_t n = 0;
    _cleanup_(authority_store_freep) X509_STORE *s = authority_read_cas(pem, &n);

    return s ? n : 0;
}

static X509 *authority_read_der(const struct cp_peer *p, size_t i)
{
    const unsigned char *at = p->cert[i].der;

    return d2i_X509(NULL, &at, (long)p->cert[i].len);
}

static int authority_key_hash(EVP_PKEY *key, char out[static CP_IDENTITY_KEY_HEX + 1])
{
    unsigned char *der = NULL, sum[EVP_MAX_MD_SIZE];
    int n = key ? i2d_PUBKEY(key, &der) : -1;
    unsigned len = 0;
    int ok = n > 0 && EVP_Digest(der, (size_t)n, sum, &len, EVP_sha256(), NULL) == 1;

    OPENSSL_free(der);
    if (!ok)
        return -ENOMEM;
    tb_hex_encode(sum, len, out);
    return 0;
}

/* Exactly one common name: of two, another reader might see the other one. */
static int authority_common_name(X509 *x, char out[static CP_IDENTITY_NAME_MAX + 1])
{
    X509_NAME *n = X509_get_subject_name(x);
    int at = X509_NAME_get_index_by_NID(n, NID_commonName, -1);
    const ASN1_STRING *s = at < 0 ? NULL : X509_NAME_ENTRY_get_data(X509_NAME_get_entry(n, at));
    int len = s ? ASN1_STRING_length(s) : 0;

    if (len <= 0 || len > CP_IDENTITY_NAME_MAX || X509_NAME_get_index_by_NID(n, NID_commonName, at) >= 0)
        return -EKEYREJECTED;
    memcpy(out, ASN1_STRING_get0_data(s), (size_t)len);
    out[len] = '\0';
    for (int i = 0; i < len; i++)
        if (out[i] < ' ' || out[i] >= 0x7f)
            out[i] = '?';
    return 0;
}

/* When the first of these ends; 0: long ago, or one has a time that nobody can read. */
static uint64_t authority_end_us(STACK_OF(X509) * chain)
{
    uint64_t end_us = UINT64_MAX;

    for (int i = 0; i < sk_X509_num(chain); i++) {
        struct tm tm = {0};
        time_t t = ASN1_TIME_to_tm(X509_get0_notAfter(sk_X509_value(chain, i)), &tm) == 1 ? timegm(&tm) : -1;

        end_us = MIN(end_us, t > 0 ? (uint64_t)t * TB_USEC_PER_SEC : 0);
    }
    return sk_X509_num(chain) > 0 ? end_us : 0;
}

static int authority_verify(X509 *leaf, STACK_OF(X509) * chain, X509_STORE *cas, bool expired_ok,
                            uint64_t now_us, uint64_t *ret_end_us)
{
    _cleanup_(authority_ctx_freep) X509_STORE_CTX *c = X509_STORE_CTX_new();
    X509_VERIFY_PARAM *param;
    int ok;

    if (!c || X509_STORE_CTX_init(c, cas, leaf, chain) != 1)
        return -ENOMEM;
    param = X509_STORE_CTX_get0_param(c);
    X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
    if (expired_ok) /* a time that is set would win over this flag */
        X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_NO_CHECK_TIME);
    else
        X509_VERIFY_PARAM_set_time(param, (time_t)(now_us / TB_USEC_PER_SEC));
    X509_VERIFY_PARAM_set_purpose(param, X509_PURPOSE_SSL_CLIENT);
    ok = X509_verify_cert(c);
    ERR_clear_error();
    if (ok == 1) {
        *ret_end_us = authority_end_us(X509_STORE_CTX_get0_chain(c));
        return 0;
    }
    switch (X509_STORE_CTX_get_error(c)) {
    case X509_V_ERR_CERT_HAS_EXPIRED:
    case X509_V_ERR_CERT_NOT_YET_VALID:
        return -EKEYEXPIRED;
    case X509_V_ERR_OUT_OF_MEM:
        return -ENOMEM;
    default:
        return -EKEYREJECTED;
    }
}

int cp_peer_verify(const struct cp_peer *p, const char *ca_pem, bool expired_ok, uint64_t now_us,
                   struct cp_identity *ret)
{
    size_t n = 0;
    _cleanup_(authority_store_freep) X509_STORE *cas = authority_read_cas(ca_pem, &n);
    _cleanup_(authority_stack_freep) STACK_OF(X509) *chain = sk_X509_new_null();
    _cleanup_(authority_x509_freep) X509 *leaf = p->n ? authority_read_der(p, 0) : NULL;
    struct cp_identity id;
    int r;

    if (p->n == 0)
        return -ENOENT;
    if (!cas || !leaf)
        return -EKEYREJECTED;
    for (size_t i = 1; chain && i < p->n; i++) {
        X509 *x = authority_read_der(p, i);

        if (x && sk_X509_push(chain, x) == 0)
            X509_free(x);
    }
    r = authority_verify(leaf, chain, cas, expired_ok, now_us, &id.end_us);
    if (r == 0)
        r = authority_common_name(leaf, id.name);
    if (r == 0)
        r = authority_key_hash(X509_get0_pubkey(leaf), id.key_sha256);
    if (r == 0)
        *ret = id;
    return r;
}

void cp_machine_name(const char *key_sha256, char out[static CP_IDENTITY_NAME_MAX + 1])
{
    snprintf(out, CP_IDENTITY_NAME_MAX + 1, "m-%.*s", AUTHORITY_NAME_HEX, key_sha256);
}

bool cp_peer_ended_within(const struct cp_peer *p, uint64_t now_us, uint64_t seconds)
{
    _cleanup_(authority_x509_freep) X509 *leaf = p->n ? authority_read_der(p, 0) : NULL;
    time_t since = (time_t)(now_us / TB_USEC_PER_SEC - seconds);

    return leaf && X509_cmp_time(X509_get0_notAfter(leaf), &since) > 0;
}

/* -- the authority ----------------------------------------------------------------------------- */

struct cp_authority *cp_authority_close(struct cp_authority *a)
{
    if (a) {
        X509_free(a->cert);
        EVP_PKEY_free(a->key);
        free(a->pem);
    }
    free(a);
    return NULL;
}

const char *cp_authority_pem(const struct cp_authority *a)
{
    return a->pem;
}

int cp_authority_open(const char *cert_path, const char *key_path, struct cp_authority **ret,
                      char err[static CP_AUTHORITY_ERR_MAX])
{
    _cleanup_(cp_authority_closep) struct cp_authority *a = calloc(1, sizeof(*a));
    _cleanup_erase_string_ char *key_pem = NULL;
    _cleanup_(authority_bio_freep) BIO *cb = NULL, *kb = NULL;
    int r;

    if (!a)
        return authority_fail(err, -ENOMEM, "out of memory");
    r = tb_read_file(cert_path, AUTHORITY_PEM_MAX, &a->pem, NULL);
    if (r < 0)
        return authority_fail(err, r, "%s: %s", cert_path, strerror(-r));
    r = tb_read_file(key_path, AUTHORITY_PEM_MAX, &key_pem, NULL);
    if (r < 0)
        return authority_fail(err, r, "%s: %s", key_path, strerror(-r));
    cb = BIO_new_mem_buf(a->pem, -1);
    kb = BIO_new_mem_buf(key_pem, -1);
    a->cert = cb ? PEM_read_bio_X509(cb, NULL, AUTHORITY_NO_PASSPHRASE) : NULL;
    a->key = kb ? PEM_read_bio_PrivateKey(kb, NULL, AUTHORITY_NO_PASSPHRASE) : NULL;
    ERR_clear_error();
    if (!a->cert || X509_check_ca(a->cert) == 0)
        return authority_fail(err, -EBADMSG, "%s does not begin with the certificate of a CA", cert_path);
    if (!a->key || X509_check_private_key(a->cert, a->key) != 1)
        return authority_fail(err, -EBADMSG, "%s is not the key of %s, in PEM without a passphrase", key_path,
                              cert_path);
    *ret = TAKE_PTR(a);
    return 0;
}

static bool authority_key_is(const EVP_PKEY *k, const char *what, const char *value)
{
    char text[40] = "";

    return EVP_PKEY_get_utf8_string_param(k, what, text, sizeof(text), NULL) == 1 && strcmp(text, value) == 0;
}

/* Of one form: the same key written in another way, its curve spelt out or its point compressed, would have
 * another hash, and be another machine. */
static bool authority_key_strong(EVP_PKEY *k)
{
    int bits = EVP_PKEY_get_bits(k);

    if (EVP_PKEY_is_a(k, "RSA"))
        return bits >= AUTHORITY_RSA_BITS_MIN && bits <= AUTHORITY_RSA_BITS_MAX;
    if (EVP_PKEY_is_a(k, "EC"))
        return authority_key_is(k, OSSL_PKEY_PARAM_EC_ENCODING, "named_curve") &&
               authority_key_is(k, OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, "uncompressed") &&
               (authority_key_is(k, OSSL_PKEY_PARAM_GROUP_NAME, "prime256v1") ||
                authority_key_is(k, OSSL_PKEY_PARAM_GROUP_NAME, "secp384r1"));
    return EVP_PKEY_is_a(k, "ED25519");
}

static X509_REQ *authority_read_request(const char *pem, size_t len, char *err)
{
    _cleanup_(authority_bio_freep) BIO *b = BIO_new_mem_buf(pem, (int)len);
    _cleanup_(authority_req_freep) X509_REQ *q =
        b ? PEM_read_bio_X509_REQ(b, NULL, AUTHORITY_NO_PASSPHRASE) : NULL;
    EVP_PKEY *k = q ? X509_REQ_get0_pubkey(q) : NULL;
    const char *why = NULL;

    if (!q)
        why = "is not a certificate request in PEM";
    else if (!k || !authority_key_strong(k))
        why =
            "has no key of P-256 or P-384 (named curve, uncompressed), Ed25519, or RSA of 2048 to 4096 bits";
    else if (X509_REQ_verify(q, k) != 1)
        why = "is not signed by its own key";
    ERR_clear_error();
    if (why) {
        authority_fail(err, -EINVAL, "csr %s", why);
        return NULL;
    }
    return TAKE_PTR(q);
}

int cp_request_key(const char *csr_pem, size_t len, char key_sha256[static CP_IDENTITY_KEY_HEX + 1],
                   char err[static CP_AUTHORITY_ERR_MAX])
{
    _cleanup_(authority_req_freep) X509_REQ *q = authority_read_request(csr_pem, len, err);

    return q ? authority_key_hash(X509_REQ_get0_pubkey(q), key_sha256) : -EINVAL;
}

static bool authority_extend(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509_EXTENSION *e;
    X509V3_CTX ctx;
    bool ok;

    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    ok = e && X509_add_ext(x, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

static bool authority_number(X509 *x)
{
    unsigned char b[16];
    BIGNUM *n;
    bool ok;

    if (RAND_bytes(b, sizeof(b)) != 1)
        return false;
    b[0] &= 0x7f; /* positive */
    n = BN_bin2bn(b, sizeof(b), NULL);
    ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static bool authority_fill(const struct cp_authority *a, X509 *x, X509_REQ *q, const char *name, time_t now,
                           uint64_t seconds)
{
    const EVP_MD *md = EVP_PKEY_is_a(a->key, "ED25519") ? NULL : EVP_sha256();

    return X509_set_version(x, X509_VERSION_3) == 1 && authority_number(x) &&
           X509_time_adj_ex(X509_getm_notBefore(x), 0, -AUTHORITY_BACKDATE_S, &now) &&
           X509_time_adj_ex(X509_getm_notAfter(x), (int)(seconds / 86400), (long)(seconds % 86400), &now) &&
           X509_set_pubkey(x, X509_REQ_get0_pubkey(q)) == 1 &&
           X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                      (const unsigned char *)name, -1, -1, 0) == 1 &&
           X509_set_issuer_name(x, X509_get_subject_name(a->cert)) == 1 &&
           authority_extend(x, a->cert, NID_basic_constraints, "critical,CA:FALSE") &&
           authority_extend(x, a->cert, NID_key_usage, "critical,digitalSignature") &&
           authority_extend(x, a->cert, NID_ext_key_usage, "clientAuth") &&
           authority_extend(x, a->cert, NID_subject_key_identifier, "hash") &&
           authority_extend(x, a->cert, NID_authority_key_identifier, "keyid") &&
           X509_sign(x, a->key, md) > 0;
}

int cp_authority_issue(const struct cp_authority *a, const char *csr_pem, size_t len, const char *name,
                       uint64_t now_us, uint64_t seconds, char **ret, char err[static CP_AUTHORITY_ERR_MAX])
{
    _cleanup_(authority_req_freep) X509_REQ *q = authority_read_request(csr_pem, len, err);
    _cleanup_(authority_x509_freep) X509 *x = X509_new();
    _cleanup_(authority_bio_freep) BIO *b = BIO_new(BIO_s_mem());
    char *text;
    long n;

    if (!q)
        return -EINVAL;
    if (!x || !b || !authority_fill(a, x, q, name, (time_t)(now_us / TB_USEC_PER_SEC), seconds) ||
        PEM_write_bio_X509(b, x) != 1) {
        ERR_clear_error();
        return authority_fail(err, -EIO, "the certificate could not be made");
    }
    n = BIO_get_mem_data(b, &text);
    *ret = strndup(text, (size_t)n);
    return *ret ? 0 : authority_fail(err, -ENOMEM, "out of memory");
}
