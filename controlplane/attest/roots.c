/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/roots.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>

#include "common/macros.h"

#define OID_AIK "2.23.133.8.3" /* tcg-kp-AIKCertificate */

/* The path is seen from where the compiler runs: the top of the tree. */
__asm__(".section .rodata\n"
        ".globl attest_azure_pem\n"
        ".hidden attest_azure_pem\n"
        "attest_azure_pem:\n"
        ".incbin \"controlplane/attest/azure-vtpm.pem\"\n"
        ".byte 0\n"
        ".previous\n");
__asm__(".section .rodata\n"
        ".globl attest_amd_pem\n"
        ".hidden attest_amd_pem\n"
        "attest_amd_pem:\n"
        ".incbin \"controlplane/attest/amd-snp.pem\"\n"
        ".byte 0\n"
        ".previous\n");
extern const char attest_azure_pem[] __attribute__((visibility("hidden")));
extern const char attest_amd_pem[] __attribute__((visibility("hidden")));

struct anchor {
    X509_STORE *store;     /* roots */
    STACK_OF(X509) * more; /* intermediates */
    size_t n_roots;
};

struct cp_attest_roots {
    struct anchor azure, own;
    struct anchor amd; /* processors */
};

static void anchor_clear(struct anchor *a)
{
    X509_STORE_free(a->store);
    sk_X509_pop_free(a->more, X509_free);
}

static void root_freep(X509 **x)
{
    X509_free(*x);
}

static void roots_bio_freep(BIO **b)
{
    BIO_free(*b);
}

static bool x509_is_root(X509 *x)
{
    return X509_check_issued(x, x) == X509_V_OK && X509_self_signed(x, 1) == 1;
}

static int anchor_add(struct anchor *a, X509 *x)
{
    if (x509_is_root(x)) {
        a->n_roots++;
        return X509_STORE_add_cert(a->store, x) == 1 ? 0 : -ENOMEM;
    }
    if (X509_up_ref(x) != 1)
        return -ENOMEM;
    if (sk_X509_push(a->more, x) > 0)
        return 0;
    X509_free(x);
    return -ENOMEM;
}

/* What one text has comes to what was there before. */
static int anchor_read(struct anchor *a, const char *pem)
{
    _cleanup_(roots_bio_freep) BIO *b = BIO_new_mem_buf(pem, -1);

    if (!a->store) {
        a->store = X509_STORE_new();
        a->more = sk_X509_new_null();
    }
    if (!b || !a->store || !a->more)
        return -ENOMEM;
    for (;;) {
        _cleanup_(root_freep) X509 *x = PEM_read_bio_X509(b, NULL, NULL, NULL);
        int r;

        if (!x) {
            bool over = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;

            ERR_clear_error();
            return over ? 0 : -EBADMSG;
        }
        r = anchor_add(a, x);
        if (r < 0)
            return r;
    }
}

static int roots_fail(int r, char err[static CP_ERR_MAX])
{
    snprintf(err, CP_ERR_MAX, "%s",
             r == -ENOMEM ? "out of memory" : "these are no certificates in PEM with at least one root");
    return r == -ENOMEM ? r : -EINVAL;
}

static int roots_add(struct anchor *a, const char *pem, char err[static CP_ERR_MAX])
{
    size_t had = a->n_roots;
    int r = anchor_read(a, pem);

    if (r == 0 && a->n_roots == had)
        r = -EBADMSG;
    return r < 0 ? roots_fail(r, err) : 0;
}

int cp_attest_roots_new(struct cp_attest_roots **ret, char err[static CP_ERR_MAX])
{
    struct cp_attest_roots *r = calloc(1, sizeof(*r));
    int n = r ? roots_add(&r->azure, attest_azure_pem, err) : roots_fail(-ENOMEM, err);

    if (n == 0)
        n = roots_add(&r->amd, attest_amd_pem, err);
    if (n < 0) {
        cp_attest_roots_free(r);
        return n;
    }
    *ret = r;
    return 0;
}

int cp_attest_roots_add_own(struct cp_attest_roots *r, const char *pem, char err[static CP_ERR_MAX])
{
    return roots_add(&r->own, pem, err);
}

int cp_attest_roots_add_amd(struct cp_attest_roots *r, const char *pem, char err[static CP_ERR_MAX])
{
    return roots_add(&r->amd, pem, err);
}

void cp_attest_roots_free(struct cp_attest_roots *r)
{
    if (!r)
        return;
    anchor_clear(&r->azure);
    anchor_clear(&r->own);
    anchor_clear(&r->amd);
    free(r);
}

static bool x509_is_for_attestation(X509 *x)
{
    EXTENDED_KEY_USAGE *usage = X509_get_ext_d2i(x, NID_ext_key_usage, NULL, NULL);
    bool found = false;

    for (int i = 0; usage && i < sk_ASN1_OBJECT_num(usage); i++) {
        char oid[32];

        OBJ_obj2txt(oid, sizeof(oid), sk_ASN1_OBJECT_value(usage, i), 1);
        found |= strcmp(oid, OID_AIK) == 0;
    }
    EXTENDED_KEY_USAGE_free(usage);
    return found;
}

/* NULL: it chains to a root of this anchor. */
static const char *anchor_verify(const struct anchor *a, X509 *x, uint64_t now_s)
{
    X509_STORE_CTX *c = X509_STORE_CTX_new();
    const char *why = "out of memory";

    if (!a->store) {
        X509_STORE_CTX_free(c);
        return "this server has no CA of its own for attestation keys (--attest-ca)";
    }
    if (c && X509_STORE_CTX_init(c, a->store, x, a->more) == 1) {
        X509_VERIFY_PARAM *p = X509_STORE_CTX_get0_param(c);

        X509_VERIFY_PARAM_set_time(p, (time_t)now_s);
        X509_VERIFY_PARAM_set_purpose(p, X509_PURPOSE_ANY);
        why = X509_verify_cert(c) == 1 ? NULL : X509_verify_cert_error_string(X509_STORE_CTX_get_error(c));
    }
    X509_STORE_CTX_free(c);
    return why;
}

EVP_PKEY *cp_attest_roots_verify(const struct cp_attest_roots *r, unsigned roots, const uint8_t *der,
                                 size_t len, uint64_t now_s, const char **ret_why)
{
    const uint8_t *p = der;
    _cleanup_(root_freep) X509 *x = d2i_X509(NULL, &p, (long)len);
    EVP_PKEY *key;

    ERR_clear_error();
    /* Behind it an NV index may be filled up. */
    if (!x) {
        *ret_why = "its certificate is malformed";
        return NULL;
    }
    *ret_why = "its certificate is of nobody that this contract trusts";
    if (roots & CP_ATTEST_AZURE)
        *ret_why = anchor_verify(&r->azure, x, now_s);
    if (*ret_why && (roots & CP_ATTEST_OWN))
        *ret_why = anchor_verify(&r->own, x, now_s);
    ERR_clear_error();
    if (!*ret_why && !x509_is_for_attestation(x))
        *ret_why = "its certificate is not for an attestation key";
    if (*ret_why)
        return NULL;
    key = X509_get_pubkey(x);
    *ret_why = key ? NULL : "its certificate has no key that can be read";
    return key;
}

X509 *cp_attest_roots_vcek(const struct cp_attest_roots *r, const uint8_t *der, size_t len, uint64_t now_s,
                           const char **ret_why)
{
    const uint8_t *p = der;
    X509 *x = d2i_X509(NULL, &p, (long)len);

    *ret_why = x ? anchor_verify(&r->amd, x, now_s) : "it is malformed";
    ERR_clear_error();
    if (!*ret_why)
        return x;
    X509_free(x);
    return NULL;
}

int64_t cp_attest_roots_end(void)
{
    _cleanup_(roots_bio_freep) BIO *b = BIO_new_mem_buf(attest_azure_pem, -1);
    int64_t end = INT64_MAX;
    X509 *x;

    while (b && (x = PEM_read_bio_X509(b, NULL, NULL, NULL))) {
        struct tm tm = {0};

        if (ASN1_TIME_to_tm(X509_get0_notAfter(x), &tm) == 1)
            end = MIN(end, (int64_t)timegm(&tm));
        X509_free(x);
    }
    ERR_clear_error();
    return end;
}
