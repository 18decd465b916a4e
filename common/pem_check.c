/* SPDX-License-Identifier: Apache-2.0 */
#include "common/pem_check.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "common/buf.h"
#include "common/file_check.h"
#include "common/http.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"

#define PEM_SOON_S (14 * 24 * 3600)
#define PEM_NAMES_SHOWN 8

#define pem_bad(f, setting, ...) tb_findings_add(f, TB_FINDING_ERROR, 0, setting, __VA_ARGS__)
#define pem_warn(f, setting, ...) tb_findings_add(f, TB_FINDING_WARNING, 0, setting, __VA_ARGS__)

static void pem_bio_freep(BIO **p)
{
    BIO_free(*p);
}

static void pem_pkey_freep(EVP_PKEY **p)
{
    EVP_PKEY_free(*p);
}

static void pem_chain_freep(STACK_OF(X509) * *p)
{
    sk_X509_pop_free(*p, X509_free);
}

/* The text of a file; NULL after a finding. */
static char *pem_read(const char *setting, const char *path, size_t *ret_len, struct tb_findings *f)
{
    char *text = NULL;
    int r = tb_read_file(path, TB_PEM_MAX, &text, ret_len);

    if (r < 0)
        pem_bad(f, setting, "%s cannot be read: %s", path,
                r == -EFBIG ? "it is larger than any file of certificates; name another" : strerror(-r));
    else if (*ret_len == 0)
        pem_bad(f, setting, "%s is empty; write the PEM file again", path);
    else
        return text;
    tb_erase_string(text);
    return NULL;
}

/* Others than certificates in between are skipped. NULL after a finding. */
static STACK_OF(X509) * pem_read_certificates(const char *setting, const char *path, struct tb_findings *f)
{
    size_t len = 0;
    _cleanup_erase_string_ char *text = pem_read(setting, path, &len, f);
    _cleanup_(pem_bio_freep) BIO *bio = text ? BIO_new_mem_buf(text, (int)len) : NULL;
    _cleanup_(pem_chain_freep) STACK_OF(X509) *chain = bio ? sk_X509_new_null() : NULL;
    X509 *cert;

    if (!chain)
        return NULL;
    ERR_clear_error();
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
        if (sk_X509_push(chain, cert) <= 0)
            X509_free(cert);
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        pem_bad(f, setting,
                "%s: certificate %d in it is damaged; copy the whole file again, with its BEGIN and END "
                "lines",
                path, sk_X509_num(chain) + 1);
    else if (sk_X509_num(chain) > 0)
        return TAKE_PTR(chain);
    else if (strstr(text, "PRIVATE KEY-----"))
        pem_bad(f, setting, "%s holds a key and no certificate; are the two files mixed up?", path);
    else
        pem_bad(f, setting,
                "%s holds no certificate in PEM format, which begins with -----BEGIN CERTIFICATE-----; "
                "convert it: openssl x509 -inform DER -in FILE -out NEW",
                path);
    ERR_clear_error();
    return NULL;
}

/* As the programs that use it judge it. */
static EVP_PKEY *pem_read_key(const char *setting, const char *path, struct tb_findings *f)
{
    size_t len = 0;
    _cleanup_erase_string_ char *text = pem_read(setting, path, &len, f);
    _cleanup_(pem_bio_freep) BIO *bio = text ? BIO_new_mem_buf(text, (int)len) : NULL;
    char err[TB_HTTP_ERR_MAX];

    if (!bio)
        return NULL;
    if (tb_http_key_check(path, err) == 0)
        return PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
    if (strstr(text, "BEGIN CERTIFICATE") && !strstr(text, "PRIVATE KEY"))
        pem_bad(f, setting, "%s holds a certificate and no key; are the two files mixed up?", path);
    else
        pem_bad(f, setting, "%s: %s", path, err);
    return NULL;
}

/* --- what is in them ------------------------------------------------------------------------------------ */

static bool pem_seconds(const ASN1_TIME *a, time_t *ret)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(a, &tm) != 1)
        return false;
    *ret = timegm(&tm);
    return true;
}

static const char *pem_date(time_t t, char out[static TB_RFC3339_MAX])
{
    return tb_rfc3339_format(t > 0 ? (uint64_t)t * TB_USEC_PER_SEC : 0, 0, out);
}

static void pem_check_dates(const char *setting, const char *path, const X509 *cert, struct tb_findings *f)
{
    time_t now = time(NULL), from, until;
    char date[TB_RFC3339_MAX];

    if (!pem_seconds(X509_get0_notBefore(cert), &from) || !pem_seconds(X509_get0_notAfter(cert), &until))
        return;
    if (until <= now)
        pem_warn(f, setting, "the certificate in %s expired on %s; replace it", path, pem_date(until, date));
    else if (from > now)
        pem_warn(f, setting, "the certificate in %s is not valid before %s; check this machine's clock", path,
                 pem_date(from, date));
    else if (until - now < PEM_SOON_S)
        pem_warn(f, setting, "the certificate in %s expires on %s; replace it before", path,
                 pem_date(until, date));
}

/* Each is signed by the next. */
static void pem_check_order(const char *setting, const char *path, STACK_OF(X509) * chain,
                            struct tb_findings *f)
{
    for (int i = 0; i + 1 < sk_X509_num(chain); i++)
        if (X509_check_issued(sk_X509_value(chain, i + 1), sk_X509_value(chain, i)) != X509_V_OK) {
            pem_warn(f, setting,
                     "%s: certificate %d in it is not the issuer of certificate %d; put the server's own "
                     "first, then "
                     "each one's issuer",
                     path, i + 2, i + 1);
            return;
        }
}

static bool pem_key_is_of(const X509 *cert, const EVP_PKEY *key)
{
    bool same = X509_check_private_key(cert, key) == 1;

    ERR_clear_error();
    return same;
}

static void pem_check_match(const struct tb_pem_pair *p, STACK_OF(X509) * chain, const EVP_PKEY *key,
                            struct tb_findings *f)
{
    if (pem_key_is_of(sk_X509_value(chain, 0), key))
        return;
    for (int i = 1; i < sk_X509_num(chain); i++)
        if (pem_key_is_of(sk_X509_value(chain, i), key)) {
            pem_bad(
                f, p->cert_setting,
                "%s: the key is that of certificate %d in it; put this certificate first, then its issuers",
                p->cert, i + 1);
            return;
        }
    pem_bad(f, p->key_setting,
            "%s is not the key of the certificate in %s; give the pair that belongs together", p->key,
            p->cert);
}

void tb_pem_check_pair(const struct tb_pem_pair *p, struct tb_findings *f)
{
    bool cert_there = p->cert && tb_file_check_open(p->cert_setting, p->cert, p->user, f);
    bool key_there = p->key && tb_file_check_key(p->key_setting, p->key, p->user, f);
    _cleanup_(pem_chain_freep) STACK_OF(X509) *chain =
        cert_there ? pem_read_certificates(p->cert_setting, p->cert, f) : NULL;
    _cleanup_(pem_pkey_freep) EVP_PKEY *key = key_there ? pem_read_key(p->key_setting, p->key, f) : NULL;

    if (chain) {
        pem_check_dates(p->cert_setting, p->cert, sk_X509_value(chain, 0), f);
        pem_check_order(p->cert_setting, p->cert, chain, f);
    }
    if (chain && key)
        pem_check_match(p, chain, key, f);
}

/* A server's own certificate, unless it has issued itself: then it may be trusted as it is. */
static bool pem_is_leaf(X509 *cert)
{
    return X509_check_ca(cert) == 0 &&
           X509_NAME_cmp(X509_get_subject_name(cert), X509_get_issuer_name(cert)) != 0;
}

/* A bundle may hold some that have expired; all of them is a mistake. */
void tb_pem_check_authorities(const char *setting, const char *path, const char *user, struct tb_findings *f)
{
    bool there = tb_file_check_open(setting, path, user, f);
    _cleanup_(pem_chain_freep) STACK_OF(X509) *all = there ? pem_read_certificates(setting, path, f) : NULL;
    time_t now = time(NULL), until;
    int expired = 0, n = all ? sk_X509_num(all) : 0;

    for (int i = 0; i < n; i++)
        expired += pem_seconds(X509_get0_notAfter(sk_X509_value(all, i)), &until) && until <= now;
    if (n == 1)
        pem_check_dates(setting, path, sk_X509_value(all, 0), f);
    else if (n > 0 && expired == n)
        pem_warn(f, setting, "all %d certificates in %s have expired; replace the file", n, path);
    if (n == 1 && pem_is_leaf(sk_X509_value(all, 0)))
        pem_warn(
            f, setting,
            "the certificate in %s is not one of an authority; name the certificate that issued the server's",
            path);
}

void tb_pem_note_names(const char *setting, const char *path, struct tb_findings *f)
{
    _cleanup_findings_ struct tb_findings ignored = {0};
    _cleanup_(pem_chain_freep) STACK_OF(X509) *chain = pem_read_certificates(setting, path, &ignored);
    GENERAL_NAMES *names =
        chain ? X509_get_ext_d2i(sk_X509_value(chain, 0), NID_subject_alt_name, NULL, NULL) : NULL;
    _cleanup_buf_ struct tb_buf b = {0};

    for (int i = 0; chain && i < MIN(sk_GENERAL_NAME_num(names), PEM_NAMES_SHOWN); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

        if (name->type == GEN_DNS)
            tb_buf_printf(&b, "%s%.*s", b.len > 0 ? ", " : "", MIN(ASN1_STRING_length(name->d.dNSName), 100),
                          (const char *)ASN1_STRING_get0_data(name->d.dNSName));
        else if (name->type == GEN_IPADD && ASN1_STRING_length(name->d.iPAddress) == 4)
            tb_buf_printf(&b, "%s%u.%u.%u.%u", b.len > 0 ? ", " : "", name->d.iPAddress->data[0],
                          name->d.iPAddress->data[1], name->d.iPAddress->data[2], name->d.iPAddress->data[3]);
    }
    GENERAL_NAMES_free(names);
    tb_buf_append(&b, "", 1);
    if (!chain || b.error < 0)
        return;
    if (b.len > 1)
        tb_findings_add(f, TB_FINDING_NOTE, 0, setting,
                        "clients must call this machine by a name in the certificate: %s", b.data);
    else
        pem_warn(f, setting,
                 "the certificate in %s has no name (subjectAltName): clients refuse it; replace it", path);
}
