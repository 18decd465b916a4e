/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/identity/pki.h"

#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"

#define PEM_MAX (64 * 1024)

static void pki_x509_freep(X509 **x)
{
    X509_free(*x);
}
static void pki_pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}
static void pki_bio_freep(BIO **b)
{
    BIO_free(*b);
}
#define _cleanup_x509_ _cleanup_(pki_x509_freep)
#define _cleanup_pkey_ _cleanup_(pki_pkey_freep)
#define _cleanup_bio_ _cleanup_(pki_bio_freep)

struct authority {
    X509 *cert;
    EVP_PKEY *key;
};

static void pki_authority_clear(struct authority *a)
{
    X509_free(a->cert);
    EVP_PKEY_free(a->key);
}

/* -- files ------------------------------------------------------------------------------------- */
/* -ENOENT when either file is missing; -EBADMSG when they are no certificate and its key. */
static int pki_load_pair(const char *cert_path, const char *key_path, X509 **ret_cert, EVP_PKEY **ret_key)
{
    _cleanup_bio_ BIO *cb = BIO_new_file(cert_path, "r"), *kb = BIO_new_file(key_path, "r");
    _cleanup_x509_ X509 *x = NULL;
    _cleanup_pkey_ EVP_PKEY *k = NULL;

    if (!cb || !kb)
        return access(cert_path, F_OK) < 0 || access(key_path, F_OK) < 0 ? -ENOENT : -EACCES;
    x = PEM_read_bio_X509(cb, NULL, NULL, NULL);
    k = PEM_read_bio_PrivateKey(kb, NULL, NULL, NULL);
    if (!x || !k || X509_check_private_key(x, k) != 1)
        return -EBADMSG;
    *ret_cert = TAKE_PTR(x);
    *ret_key = TAKE_PTR(k);
    return 0;
}

static int pki_save_bio(BIO *b, const char *path, mode_t mode)
{
    char *data;
    long n = BIO_get_mem_data(b, &data);
    int r;

    r = tb_write_file_atomic(path, data, (size_t)n, mode);
    tb_erase(data, (size_t)n);
    return r;
}

/* The key first: a certificate without its key would look whole to other programs. */
static int pki_save_pair(const char *cert_path, const char *key_path, X509 *x, EVP_PKEY *k)
{
    _cleanup_bio_ BIO *cb = BIO_new(BIO_s_mem()), *kb = BIO_new(BIO_s_secmem());
    int r;

    if (!cb || !kb || PEM_write_bio_X509(cb, x) != 1 ||
        PEM_write_bio_PKCS8PrivateKey(kb, k, NULL, NULL, 0, NULL, NULL) != 1)
        return -ENOMEM;
    r = pki_save_bio(kb, key_path, 0600);
    return r < 0 ? r : pki_save_bio(cb, cert_path, 0644);
}

/* -- certificates ------------------------------------------------------------------------------ */
static int pki_add_extension(X509 *x, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509_EXTENSION *e;
    int ok;

    X509V3_set_ctx(&ctx, issuer, x, NULL, NULL, 0);
    e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    if (!e)
        return -EINVAL;
    ok = X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
    return ok == 1 ? 0 : -ENOMEM;
}

static int pki_set_serial(X509 *x)
{
    unsigned char b[16];
    BIGNUM *n;
    int ok;

    if (RAND_bytes(b, sizeof(b)) != 1)
        return -EIO;
    b[0] &= 0x7f; /* positive */
    n = BN_bin2bn(b, sizeof(b), NULL);
    ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok ? 0 : -ENOMEM;
}

/* Subject, dates and key; valid from an hour ago, for peers whose clock is behind. */
static X509 *pki_new_certificate(const char *common_name, int days, EVP_PKEY *key)
{
    _cleanup_x509_ X509 *x = X509_new();

    if (!x || X509_set_version(x, X509_VERSION_3) != 1 || pki_set_serial(x) < 0 ||
        !X509_gmtime_adj(X509_getm_notBefore(x), -3600) ||
        !X509_time_adj_ex(X509_getm_notAfter(x), days, 0, NULL) || X509_set_pubkey(x, key) != 1 ||
        X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_UTF8,
                                   (const unsigned char *)common_name, -1, -1, 0) != 1)
        return NULL;
    return TAKE_PTR(x);
}

static int pki_make_authority(struct authority *ret)
{
    _cleanup_pkey_ EVP_PKEY *k = EVP_EC_gen("P-256");
    _cleanup_x509_ X509 *x = k ? pki_new_certificate("TrustBridge development CA", CP_CA_DAYS, k) : NULL;

    if (!x || X509_set_issuer_name(x, X509_get_subject_name(x)) != 1 ||
        pki_add_extension(x, x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") < 0 ||
        pki_add_extension(x, x, NID_key_usage, "critical,keyCertSign,cRLSign") < 0 ||
        pki_add_extension(x, x, NID_subject_key_identifier, "hash") < 0 || X509_sign(x, k, EVP_sha256()) == 0)
        return -EIO;
    *ret = (struct authority){.cert = TAKE_PTR(x), .key = TAKE_PTR(k)};
    return 0;
}

/* alt_names NULL: a client. */
static int pki_issue(const struct authority *ca, const char *common_name, const char *alt_names, X509 **ret,
                     EVP_PKEY **ret_key)
{
    _cleanup_pkey_ EVP_PKEY *k = EVP_EC_gen("P-256");
    _cleanup_x509_ X509 *x = k ? pki_new_certificate(common_name, CP_LEAF_DAYS, k) : NULL;
    int r;

    if (!x || X509_set_issuer_name(x, X509_get_subject_name(ca->cert)) != 1 ||
        pki_add_extension(x, ca->cert, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
        pki_add_extension(x, ca->cert, NID_key_usage, "critical,digitalSignature") < 0 ||
        pki_add_extension(x, ca->cert, NID_ext_key_usage, alt_names ? "serverAuth" : "clientAuth") < 0 ||
        pki_add_extension(x, ca->cert, NID_subject_key_identifier, "hash") < 0 ||
        pki_add_extension(x, ca->cert, NID_authority_key_identifier, "keyid") < 0)
        return -EIO;
    r = alt_names ? pki_add_extension(x, ca->cert, NID_subject_alt_name, alt_names) : 0;
    if (r < 0)
        return r;
    if (X509_sign(x, ca->key, EVP_sha256()) == 0)
        return -EIO;
    *ret = TAKE_PTR(x);
    *ret_key = TAKE_PTR(k);
    return 0;
}

/* -- the data directory ------------------------------------------------------------------------ */
struct pair_paths {
    char *cert, *key;
};
static void pki_pair_paths_clear(struct pair_paths *p)
{
    free(p->cert);
    free(p->key);
}
#define _cleanup_paths_ _cleanup_(pki_pair_paths_clear)

static int pki_load_authority(const char *dir, struct authority *ret, char err[static CP_ERR_MAX])
{
    _cleanup_paths_ struct pair_paths p = {tb_path_join(dir, CP_CA_CERT), tb_path_join(dir, CP_CA_KEY)};
    struct authority ca = {0};
    int r;

    if (!p.cert || !p.key)
        return -ENOMEM;
    r = pki_load_pair(p.cert, p.key, &ca.cert, &ca.key);
    if (r == -ENOENT && access(p.cert, F_OK) == 0)
        r = -EBADMSG; /* replacing a CA that clients may trust already is the user's decision */
    if (r == -ENOENT) {
        r = pki_make_authority(&ca);
        if (r == 0)
            r = pki_save_pair(p.cert, p.key, ca.cert, ca.key);
    }
    if (r < 0) {
        if (r == -EBADMSG)
            snprintf(err, CP_ERR_MAX,
                     "%s and %s are not a certificate and its key; remove both to have a new CA made", p.cert,
                     p.key);
        else
            snprintf(err, CP_ERR_MAX, "cannot make or read the CA %s: %s", p.cert, strerror(-r));
        pki_authority_clear(&ca);
        return r;
    }
    *ret = ca;
    return 0;
}

static bool pki_is_address(const char *name)
{
    unsigned char b[sizeof(struct in6_addr)];

    return inet_pton(AF_INET, name, b) == 1 || inet_pton(AF_INET6, name, b) == 1;
}

static bool pki_covers(X509 *x, const char *name)
{
    return pki_is_address(name) ? X509_check_ip_asc(x, name, 0) == 1
                                : X509_check_host(x, name, 0, 0, NULL) == 1;
}

static const char *const own_names[] = {"localhost", "127.0.0.1", "::1"};

static bool pki_server_certificate_good(X509 *x, const struct authority *ca, const char *const *names,
                                        size_t n_names)
{
    time_t soon = time(NULL) + CP_RENEW_DAYS * 86400;

    if (X509_verify(x, X509_get0_pubkey(ca->cert)) != 1 || X509_cmp_time(X509_get0_notAfter(x), &soon) <= 0)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(own_names); i++)
        if (!pki_covers(x, own_names[i]))
            return false;
    for (size_t i = 0; i < n_names; i++)
        if (!pki_covers(x, names[i]))
            return false;
    return true;
}

/* "DNS:localhost,IP:127.0.0.1,..."; a name with anything else than a host's characters could smuggle in
 * another kind. */
static int pki_alt_names(const char *const *names, size_t n_names, char **ret, char err[static CP_ERR_MAX])
{
    _cleanup_free_ char *list = strdup("DNS:localhost,IP:127.0.0.1,IP:::1");

    for (size_t i = 0; list && i < n_names; i++) {
        char *longer;

        if (!pki_is_address(names[i]) &&
            (names[i][0] == '\0' ||
             names[i]
                  [strspn(names[i], "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-*")])) {
            snprintf(err, CP_ERR_MAX, "--name %s is neither a host name nor an address", names[i]);
            return -EINVAL;
        }
        longer = tb_strf("%s,%s:%s", list, pki_is_address(names[i]) ? "IP" : "DNS", names[i]);
        free(list);
        list = longer;
    }
    if (!list) {
        snprintf(err, CP_ERR_MAX, "out of memory");
        return -ENOMEM;
    }
    *ret = TAKE_PTR(list);
    return 0;
}

static int pki_issue_and_save(const struct authority *ca, const struct pair_paths *p, const char *common_name,
                              const char *alt, char err[static CP_ERR_MAX])
{
    _cleanup_x509_ X509 *x = NULL;
    _cleanup_pkey_ EVP_PKEY *k = NULL;
    int r;

    r = pki_issue(ca, common_name, alt, &x, &k);
    if (r == 0)
        r = pki_save_pair(p->cert, p->key, x, k);
    if (r < 0)
        snprintf(err, CP_ERR_MAX, "cannot make certificate %s: %s", p->cert, strerror(-r));
    return r;
}

int cp_pki_server(const char *dir, const char *const *names, size_t n_names, char err[static CP_ERR_MAX])
{
    _cleanup_paths_ struct pair_paths p = {tb_path_join(dir, CP_SERVER_CERT),
                                           tb_path_join(dir, CP_SERVER_KEY)};
    _cleanup_(pki_authority_clear) struct authority ca = {0};
    _cleanup_x509_ X509 *x = NULL;
    _cleanup_pkey_ EVP_PKEY *k = NULL;
    _cleanup_free_ char *alt = NULL;
    int r;

    r = pki_alt_names(names, n_names, &alt, err);
    if (r < 0)
        return r;
    r = pki_load_authority(dir, &ca, err);
    if (r < 0)
        return r;
    if (!p.cert || !p.key)
        return -ENOMEM;
    r = pki_load_pair(p.cert, p.key, &x, &k);
    if (r == 0 && pki_server_certificate_good(x, &ca, names, n_names))
        return 0;
    return pki_issue_and_save(&ca, &p, "TrustBridge development control plane", alt, err);
}

int cp_pki_ca(const char *dir, char err[static CP_ERR_MAX])
{
    _cleanup_(pki_authority_clear) struct authority ca = {0};

    return pki_load_authority(dir, &ca, err);
}

int cp_pki_client(const char *dir, const char *name, char err[static CP_ERR_MAX])
{
    _cleanup_free_ char *base = tb_strf("%s/client-%s", dir, name);
    _cleanup_paths_ struct pair_paths p = {tb_strf("%s.crt", base), tb_strf("%s.key", base)};
    _cleanup_(pki_authority_clear) struct authority ca = {0};
    int r;

    if (!tb_id_valid(name)) {
        snprintf(err, CP_ERR_MAX, "client name \"%s\" does not match ^[A-Za-z0-9_-]{1,100}$", name);
        return -EINVAL;
    }
    if (!base || !p.cert || !p.key)
        return -ENOMEM;
    r = tb_mkdir_p(dir, 0755);
    if (r < 0) {
        snprintf(err, CP_ERR_MAX, "cannot make directory %s: %s", dir, strerror(-r));
        return r;
    }
    r = pki_load_authority(dir, &ca, err);
    if (r < 0)
        return r;
    /* X.509 limits a common name to 64 characters; OpenSSL enforces it */
    if (strlen(name) > 64) {
        snprintf(err, CP_ERR_MAX, "client name \"%s\" is longer than the 64 characters of a common name",
                 name);
        return -EINVAL;
    }
    return pki_issue_and_save(&ca, &p, name, NULL, err);
}
