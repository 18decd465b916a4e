/* SPDX-License-Identifier: Apache-2.0 */
#include "common/certificate.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>

#include "common/macros.h"
#include "common/units.h"

#define BUNDLE 16 /* as many certificates and more: authorities of which any may do */

static void x509_freep(X509 **x)
{
    X509_free(*x);
}

static void evp_pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static uint64_t certificate_time(const ASN1_TIME *t)
{
    struct tm tm;
    time_t s;

    if (ASN1_TIME_to_tm(t, &tm) != 1)
        return 0;
    s = timegm(&tm);
    return s > 0 ? (uint64_t)s * TB_USEC_PER_SEC : 1;
}

struct certificate_span {
    unsigned n;
    uint64_t from, first_end, next_end, last_end; /* next: of those that have not ended; 0: none */
};

static void certificate_note(struct certificate_span *s, const X509 *x, uint64_t now_us)
{
    uint64_t until = certificate_time(X509_get0_notAfter(x));

    if (s->n++ == 0) {
        s->from = certificate_time(X509_get0_notBefore(x));
        s->first_end = until;
    }
    s->first_end = MIN(s->first_end, until);
    s->last_end = MAX(s->last_end, until);
    if (until > now_us && (s->next_end == 0 || until < s->next_end))
        s->next_end = until;
}

static uint64_t certificate_end(const struct certificate_span *s, bool authorities)
{
    if (!authorities)
        return s->first_end;
    return s->n >= BUNDLE || s->next_end == 0 ? s->last_end : s->next_end;
}

static FILE *certificate_open(const char *path, struct tb_certificate *ret)
{
    FILE *f = fopen(path, "re");

    snprintf(ret->path, sizeof(ret->path), "%s", path);
    if (!f)
        snprintf(ret->error, sizeof(ret->error), "%s", strerror(errno));
    return f;
}

int tb_certificate_read(const char *path, bool authorities, uint64_t now_us, struct tb_certificate *ret)
{
    struct certificate_span s = {0};
    _cleanup_fclose_ FILE *f = NULL;
    int r;

    *ret = (struct tb_certificate){0};
    f = certificate_open(path, ret);
    if (!f)
        return -errno;
    for (;;) {
        _cleanup_(x509_freep) X509 *x = PEM_read_X509(f, NULL, NULL, NULL);

        if (!x)
            break;
        certificate_note(&s, x, now_us);
    }
    /* The end of the file reads as an error too. */
    r = s.n > 0 && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE ? 0 : -EINVAL;
    ERR_clear_error();
    if (r < 0) {
        snprintf(ret->error, sizeof(ret->error), "holds no certificate in PEM format that can be read");
        return r;
    }
    ret->from_us = s.from;
    ret->until_us = certificate_end(&s, authorities);
    return 0;
}

static int certificate_no_passphrase(char *buf, int size, int writing, void *arg)
{
    return -1;
}

int tb_certificate_key(const char *key_path, char error[static TB_CERTIFICATE_ERR_MAX])
{
    _cleanup_fclose_ FILE *k = fopen(key_path, "re");
    _cleanup_(evp_pkey_freep) EVP_PKEY *key = NULL;

    error[0] = '\0';
    if (!k) {
        snprintf(error, TB_CERTIFICATE_ERR_MAX, "cannot be read: %s", strerror(errno));
        return -EINVAL;
    }
    key = PEM_read_PrivateKey(k, NULL, certificate_no_passphrase, NULL);
    ERR_clear_error();
    if (key)
        return 0;
    snprintf(error, TB_CERTIFICATE_ERR_MAX, "holds no private key in PEM format without a password");
    return -EINVAL;
}

const char *tb_certificate_source(const char *path, char out[static TB_CERTIFICATE_PATH_MAX])
{
    static const char credentials[] = "/run/credentials/";
    const char *name = strrchr(path, '/');
    bool is_one = strncmp(path, credentials, sizeof(credentials) - 1) == 0 && name;

    snprintf(out, TB_CERTIFICATE_PATH_MAX, "%s%s", is_one ? "/etc/credstore/trustbridge." : "",
             is_one ? name + 1 : path);
    return out;
}

int tb_certificate_match(const char *cert_path, const char *key_path,
                         char error[static TB_CERTIFICATE_ERR_MAX])
{
    _cleanup_fclose_ FILE *c = fopen(cert_path, "re"), *k = fopen(key_path, "re");
    _cleanup_(x509_freep) X509 *x = c ? PEM_read_X509(c, NULL, NULL, NULL) : NULL;
    _cleanup_(evp_pkey_freep) EVP_PKEY *key =
        k ? PEM_read_PrivateKey(k, NULL, certificate_no_passphrase, NULL) : NULL;
    bool matches = !x || !key || X509_check_private_key(x, key) == 1;

    ERR_clear_error();
    error[0] = '\0';
    if (matches)
        return 0;
    snprintf(error, TB_CERTIFICATE_ERR_MAX, "is not the key of the certificate in %.100s", cert_path);
    return -EINVAL;
}
