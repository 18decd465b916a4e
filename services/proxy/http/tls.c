/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/macros.h"
#include "common/units.h"

#define SOON_S (14 * 24 * 3600)

static void tls_ctx_freep(SSL_CTX **p)
{
    SSL_CTX_free(*p);
}

static void tls_bio_freep(BIO **p)
{
    BIO_free(*p);
}

static void tls_pkey_freep(EVP_PKEY **p)
{
    EVP_PKEY_free(*p);
}

/* The last of OpenSSL's errors says it most plainly. */
static int tls_fail(char *err, const struct tb_tls_file *f, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    const char *reason = e ? ERR_reason_error_string(e) : NULL;

    snprintf(err, TB_TLS_ERR_MAX, "%s: %s %s%s%s", f->setting, f->path, what, reason ? ": " : "",
             reason ? reason : "");
    ERR_clear_error();
    return -EINVAL;
}

/* --- dates ---------------------------------------------------------------------------------------------- */

static void tls_warn_date(char *warning, const struct tb_tls_file *f, const char *what, time_t t,
                          const char *then)
{
    char date[TB_RFC3339_MAX];

    snprintf(warning, TB_TLS_ERR_MAX, "%s: the certificate in %s %s %s; %s", f->setting, f->path, what,
             tb_rfc3339_format((uint64_t)t * TB_USEC_PER_SEC, 0, date), then);
}

static bool tls_asn1_seconds(const ASN1_TIME *a, time_t *ret)
{
    struct tm tm;

    if (ASN1_TIME_to_tm(a, &tm) != 1)
        return false;
    *ret = timegm(&tm);
    return true;
}

static void tls_check_dates(const X509 *cert, const struct tb_tls_file *f, char *warning)
{
    time_t now = time(NULL), from, until;

    if (!tls_asn1_seconds(X509_get0_notBefore(cert), &from) ||
        !tls_asn1_seconds(X509_get0_notAfter(cert), &until))
        return;
    if (until <= now)
        tls_warn_date(warning, f, "expired on", until, "clients refuse it; replace it");
    else if (from > now)
        tls_warn_date(warning, f, "is not valid before", from,
                      "clients refuse it until then; check the clock");
    else if (until - now < SOON_S)
        tls_warn_date(warning, f, "expires on", until, "replace it before");
}

/* --- reading -------------------------------------------------------------------------------------------- */

/* The chain: the leaf, then its issuers until the text holds no more. */
static int tls_read_chain(SSL_CTX *ctx, const struct tb_tls_file *f, char *err)
{
    static const char none[] = "holds no PEM certificate chain that can be used; give the server's "
                               "certificate first, then its issuers";
    _cleanup_(tls_bio_freep) BIO *bio = BIO_new_mem_buf(f->text, (int)f->len);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    int r = cert ? SSL_CTX_use_certificate(ctx, cert) : 0;

    X509_free(cert);
    if (r != 1)
        return tls_fail(err, f, none);
    while ((cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)))
        if (SSL_CTX_add0_chain_cert(ctx, cert) != 1) {
            X509_free(cert);
            return tls_fail(err, f, none);
        }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        return tls_fail(err, f, none);
    ERR_clear_error();
    return 0;
}

/* Nobody is asked for a password. */
static int tls_no_password(char *buf, int size, int for_writing, void *arg)
{
    return -1;
}

static int tls_read_key(SSL_CTX *ctx, const struct tb_tls_file *f, char *err)
{
    _cleanup_(tls_bio_freep) BIO *bio = BIO_new_mem_buf(f->text, (int)f->len);
    _cleanup_(tls_pkey_freep) EVP_PKEY *key =
        bio ? PEM_read_bio_PrivateKey(bio, NULL, tls_no_password, NULL) : NULL;

    if (!key)
        return tls_fail(err, f, "holds no PEM private key that can be used; give it without a password");
    if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) != 1) {
        ERR_clear_error();
        return tls_fail(
            err, f,
            "is not the key of the first certificate in TB_TLS_CERT; give the pair that belongs together");
    }
    if (SSL_CTX_use_PrivateKey(ctx, key) != 1)
        return tls_fail(err, f, "cannot be used");
    return 0;
}

/* A client that speaks HTTP/2 as well shall know that it is HTTP/1.1 here. */
static int tls_choose_protocol(SSL *ssl, const unsigned char **out, unsigned char *out_len,
                               const unsigned char *in, unsigned in_len, void *arg)
{
    static const unsigned char ours[] = "\x08http/1.1";
    unsigned char *chosen;

    if (SSL_select_next_proto(&chosen, out_len, ours, sizeof(ours) - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED)
        return SSL_TLSEXT_ERR_NOACK;
    *out = chosen;
    return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *tls_context_new(void)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());

    if (!ctx)
        return NULL;
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_ENABLE_KTLS |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                              SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);                          /* a record is read by one call, not by two */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF); /* tickets resume sessions */
    SSL_CTX_set_alpn_select_cb(ctx, tls_choose_protocol, NULL);
    return ctx;
}

int tb_tls_use(struct tb_tls *t, const struct tb_tls_file *cert, const struct tb_tls_file *key,
               char err[static TB_TLS_ERR_MAX], char warning[static TB_TLS_ERR_MAX])
{
    _cleanup_(tls_ctx_freep) SSL_CTX *ctx = tls_context_new();
    int r;

    warning[0] = '\0';
    ERR_clear_error();
    if (!ctx)
        return tls_fail(err, cert, "cannot be read: out of memory");
    r = tls_read_chain(ctx, cert, err);
    if (r >= 0)
        r = tls_read_key(ctx, key, err);
    if (r < 0)
        return r;
    tls_check_dates(SSL_CTX_get0_certificate(ctx), cert, warning);
    SSL_CTX_free(t->context); /* connections that use it hold it */
    t->context = TAKE_PTR(ctx);
    return 0;
}

void tb_tls_done(struct tb_tls *t)
{
    SSL_CTX_free(t->context);
    t->context = NULL;
}
