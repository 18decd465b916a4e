/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/tls.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/macros.h"
#include "common/units.h"

#define CHAIN_MAX 16
#define SOON_S (14 * 24 * 3600)

/* One pair of chain and key. A handshake that began with it may still be under way when the next is in force, so an old one is kept
 * for a while: longer than a handshake may take. */
#define KEEP_US (120 * TB_USEC_PER_SEC)

struct pair {
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned n;
    gnutls_privkey_t key;
    uint64_t replaced_us;
    struct pair *older;
};

/* GnuTLS gives the callback no argument. */
static struct pair *current;

static void pair_free(struct pair *p)
{
    if (!p)
        return;
    for (unsigned i = 0; i < p->n; i++)
        gnutls_pcert_deinit(&p->chain[i]);
    if (p->key)
        gnutls_privkey_deinit(p->key);
    free(p);
}

static void pair_freep(struct pair **p)
{
    pair_free(*p);
}

static int fail(char *err, const struct tb_tls_file *f, const char *what, int gnutls_error)
{
    snprintf(err, TB_TLS_ERR_MAX, "%s: %s %s%s%s", f->setting, f->path, what, gnutls_error ? ": " : "",
             gnutls_error ? gnutls_strerror(gnutls_error) : "");
    return -EINVAL;
}

static gnutls_datum_t datum(const struct tb_tls_file *f)
{
    return (gnutls_datum_t){(unsigned char *)f->text, (unsigned)f->len};
}

/* --- checks ------------------------------------------------------------------------------------------------------ */

static int same_key(const struct pair *p)
{
    unsigned char of_cert[64], of_key[64];
    size_t n = sizeof(of_cert), m = sizeof(of_key);
    gnutls_pubkey_t pub;
    int r = gnutls_pubkey_init(&pub);

    if (r < 0)
        return r;
    r = gnutls_pubkey_import_privkey(pub, p->key, 0, 0);
    if (r >= 0)
        r = gnutls_pubkey_get_key_id(pub, 0, of_key, &m);
    if (r >= 0)
        r = gnutls_pubkey_get_key_id(p->chain[0].pubkey, 0, of_cert, &n);
    gnutls_pubkey_deinit(pub);
    if (r < 0)
        return r;
    return n == m && memcmp(of_cert, of_key, n) == 0;
}

static void say_date(char *warning, const struct tb_tls_file *f, const char *what, time_t t, const char *then)
{
    char date[TB_RFC3339_MAX];

    snprintf(warning, TB_TLS_ERR_MAX, "%s: the certificate in %s %s %s; %s", f->setting, f->path, what,
             tb_rfc3339_format((uint64_t)t * TB_USEC_PER_SEC, 0, date), then);
}

static void check_dates(const struct pair *p, const struct tb_tls_file *f, char *warning)
{
    gnutls_x509_crt_t crt;
    time_t now = time(NULL), from, until;

    if (gnutls_pcert_export_x509((gnutls_pcert_st *)&p->chain[0], &crt) < 0)
        return;
    from = gnutls_x509_crt_get_activation_time(crt);
    until = gnutls_x509_crt_get_expiration_time(crt);
    gnutls_x509_crt_deinit(crt);
    if (until <= now)
        say_date(warning, f, "expired on", until, "clients refuse it; replace it");
    else if (from > now)
        say_date(warning, f, "is not valid before", from, "clients refuse it until then; check the clock");
    else if (until - now < SOON_S)
        say_date(warning, f, "expires on", until, "replace it before");
}

/* --- reading ----------------------------------------------------------------------------------------------------- */

static int read_pair(struct pair *p, const struct tb_tls_file *cert, const struct tb_tls_file *key, char *err)
{
    gnutls_datum_t d = datum(cert);
    unsigned n = CHAIN_MAX;
    int r = gnutls_pcert_list_import_x509_raw(p->chain, &n, &d, GNUTLS_X509_FMT_PEM, 0);

    if (r < 0)
        return fail(err, cert,
                    "holds no PEM certificate chain that can be used; give the server's certificate first, "
                    "then its issuers",
                    r);
    p->n = n;
    r = gnutls_privkey_init(&p->key);
    d = datum(key);
    if (r >= 0)
        r = gnutls_privkey_import_x509_raw(p->key, &d, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (r < 0)
        return fail(err, key, "holds no PEM private key that can be used; give it without a password", r);
    r = same_key(p);
    if (r < 0)
        return fail(err, key, "cannot be compared with the certificate", r);
    if (r == 0)
        return fail(
            err, key,
            "is not the key of the first certificate in TB_TLS_CERT; give the pair that belongs together", 0);
    return 0;
}

static void free_old(uint64_t now)
{
    struct pair **at = current ? &current->older : NULL;

    while (at && *at) {
        struct pair *p = *at;

        if (now - p->replaced_us <= KEEP_US) {
            at = &p->older;
            continue;
        }
        *at = p->older;
        pair_free(p);
    }
}

int tb_tls_use(const struct tb_tls_file *cert, const struct tb_tls_file *key, char err[static TB_TLS_ERR_MAX],
               char warning[static TB_TLS_ERR_MAX])
{
    _cleanup_(pair_freep) struct pair *p = calloc(1, sizeof(*p));
    uint64_t now = tb_now_monotonic_us();
    int r;

    warning[0] = '\0';
    if (!p)
        return fail(err, cert, "cannot be read: out of memory", 0);
    r = read_pair(p, cert, key, err);
    if (r < 0)
        return r;
    check_dates(p, cert, warning);
    if (current)
        current->replaced_us = now;
    p->older = current;
    current = TAKE_PTR(p);
    free_old(now);
    return 0;
}

int tb_tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **certs,
                    unsigned *certs_length, gnutls_ocsp_data_st **ocsp, unsigned *ocsp_length,
                    gnutls_privkey_t *privkey, unsigned *flags)
{
    *certs = current->chain;
    *certs_length = current->n;
    *ocsp = NULL;
    *ocsp_length = 0;
    *privkey = current->key;
    *flags = 0; /* they stay ours */
    return 0;
}

void tb_tls_done(void)
{
    while (current) {
        struct pair *older = current->older;

        pair_free(current);
        current = older;
    }
}
