/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/identity.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/sha.h>
#include <openssl/x509.h>
#include <ctype.h>
#include <string.h>
#include <unistd.h>

#include "common/application.h"
#include "common/azure_token.h"
#include "common/domain_file.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"

#define IDENTITY_TIMEOUT_MS 30000
#define IDENTITY_PEM_MAX (32 * 1024)
#define IDENTITY_CODE_MAX 4096 /* with what an editor or a template puts around it */
#define IDENTITY_CHAIN_MAX 4
#define IDENTITY_CODE_LINE "Enrolled-By: "

static void identity_pkey_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}
static void identity_req_freep(X509_REQ **q)
{
    X509_REQ_free(*q);
}
static void identity_bio_freep(BIO **b)
{
    BIO_free(*b);
}
#define _cleanup_pkey_ _cleanup_(identity_pkey_freep)
#define _cleanup_bio_ _cleanup_(identity_bio_freep)

static char *identity_file(const struct tb_config *cfg, const char *name)
{
    _cleanup_free_ char *dir = NULL;

    return tb_state_dir(cfg->state_dir, "tb-authorize", &dir) < 0 ? NULL : tb_path_join(dir, name);
}

char *authorize_identity_path(const struct tb_config *cfg)
{
    _cleanup_free_ char *path = identity_file(cfg, "machine.pem");

    return path && access(path, F_OK) == 0 ? TAKE_PTR(path) : NULL;
}

/* -- keys and requests ------------------------------------------------------------------------- */

static EVP_PKEY *identity_read_key(const char *path)
{
    _cleanup_bio_ BIO *b = BIO_new_file(path, "r");
    EVP_PKEY *k = b ? PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)"") : NULL;

    ERR_clear_error();
    return k;
}

/* The key as PEM: heap, to be wiped. */
static char *identity_key_pem(EVP_PKEY *k)
{
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_secmem());
    char *text, *copy = NULL;
    long n;

    if (b && PEM_write_bio_PKCS8PrivateKey(b, k, NULL, NULL, 0, NULL, NULL) == 1) {
        n = BIO_get_mem_data(b, &text);
        copy = strndup(text, (size_t)n);
        tb_erase(text, (size_t)n);
    }
    return copy;
}

/* The key that waits for its certificate; made when there is none. One that has its certificate in `have`
 * already, as the machine died before it was removed, waits for nothing. */
static int identity_new_key(const char *path, const char *have, EVP_PKEY **ret)
{
    _cleanup_pkey_ EVP_PKEY *k = identity_read_key(path), *old = have ? identity_read_key(have) : NULL;
    _cleanup_erase_string_ char *pem = NULL;
    int r;

    if (!k || (old && EVP_PKEY_eq(k, old) == 1)) {
        EVP_PKEY_free(k);
        k = EVP_EC_gen("P-256");
        pem = k ? identity_key_pem(k) : NULL;
        if (!pem)
            return -ENOMEM;
        r = tb_write_file_atomic(path, pem, strlen(pem), 0600);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(k);
    return 0;
}

static char *identity_csr(EVP_PKEY *k)
{
    _cleanup_(identity_req_freep) X509_REQ *q = X509_REQ_new();
    _cleanup_bio_ BIO *b = BIO_new(BIO_s_mem());
    X509_NAME *name = q ? X509_REQ_get_subject_name(q) : NULL;
    char *text;
    long n;

    if (!b || !name ||
        X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)"tb-authorize", -1, -1,
                                   0) != 1 ||
        X509_REQ_set_pubkey(q, k) != 1 || X509_REQ_sign(q, k, EVP_sha256()) <= 0 ||
        PEM_write_bio_X509_REQ(b, q) != 1) {
        ERR_clear_error();
        return NULL;
    }
    n = BIO_get_mem_data(b, &text);
    return strndup(text, (size_t)n);
}

/* -- the file ---------------------------------------------------------------------------------- */

static void identity_code_hash(const char *code, char out[static 2 * SHA256_DIGEST_LENGTH + 1])
{
    uint8_t sum[SHA256_DIGEST_LENGTH];

    SHA256((const uint8_t *)code, strlen(code), sum);
    tb_hex_encode(sum, sizeof(sum), out);
}

/* The hash of the code by which the identity came; "" when there is none. */
static void identity_used_code(const char *path, char out[static 2 * SHA256_DIGEST_LENGTH + 1])
{
    _cleanup_erase_string_ char *text = NULL;
    const char *at;

    out[0] = '\0';
    if (!path || tb_read_file(path, IDENTITY_PEM_MAX, &text, NULL) < 0)
        return;
    at = strstr(text, IDENTITY_CODE_LINE);
    if (at)
        snprintf(out, 2 * SHA256_DIGEST_LENGTH + 1, "%.*s", 2 * SHA256_DIGEST_LENGTH,
                 at + strlen(IDENTITY_CODE_LINE));
}

/* The certificates of an answer written anew, heap, and nothing else of it: what stands between them, or a
 * key, would be read as the machine's own. The first is of the key k, else NULL. */
static char *identity_chain(const char *pem, EVP_PKEY *k)
{
    _cleanup_bio_ BIO *in = BIO_new_mem_buf(pem, -1), *out = BIO_new(BIO_s_mem());
    bool ok = in && out;
    char *text;
    int n = 0;

    for (X509 *x; ok && n < IDENTITY_CHAIN_MAX; n++) {
        x = PEM_read_bio_X509(in, NULL, NULL, (void *)""); /* "": nobody is asked for a passphrase */
        if (!x)
            break;
        ok = (n > 0 || X509_check_private_key(x, k) == 1) && PEM_write_bio_X509(out, x) == 1;
        X509_free(x);
    }
    ERR_clear_error();
    if (!ok || n == 0)
        return NULL;
    n = (int)BIO_get_mem_data(out, &text);
    return n < IDENTITY_PEM_MAX / 2 ? strndup(text, (size_t)n) : NULL;
}

/* Certificate and key as one file. */
static int identity_save(const char *path, const char *code_hash, const char *cert_pem, EVP_PKEY *k)
{
    _cleanup_free_ char *chain = identity_chain(cert_pem, k);
    _cleanup_erase_string_ char *key = chain ? identity_key_pem(k) : NULL, *text = NULL;

    if (!chain)
        return -EKEYREJECTED;
    text = key ? tb_strf(IDENTITY_CODE_LINE "%s\n%s%s", code_hash, chain, key) : NULL;
    return text ? tb_write_file_atomic(path, text, strlen(text), 0600) : -ENOMEM;
}

/* -- the control plane ------------------------------------------------------------------------- */

struct identity_call {
    const struct tb_config *cfg;
    const struct tb_http_tls *tls;
    const char *call, *code;    /* code NULL: renewal, or */
    const char *identity_token; /* of the machine's managed identity */
    const char *code_hash;
    char *path; /* of the identity */
    EVP_PKEY *key;
};

static char *identity_body(const struct identity_call *c, const char *csr)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o ||
        ((c->code || c->identity_token) &&
         (!cJSON_AddStringToObject(o, "contract_id", c->cfg->contract_id) ||
          !cJSON_AddStringToObject(o, c->code ? "code" : "identity_token",
                                   c->code ? c->code : c->identity_token))) ||
        !cJSON_AddStringToObject(o, "csr", csr))
        return NULL;
    return cJSON_PrintUnformatted(o);
}

static bool identity_fail(struct authorize_verdict *v, const struct identity_call *c, const char *why)
{
    tb_outcome_set(&v->outcome, AUTHORIZE_RETRY, "%s: %s",
                   c->code || c->identity_token ? "enrolment" : "renewal of the machine's certificate", why);
    return false;
}

/* What is not 200: a denial as with every call, or an error that passes. */
static bool identity_refused(const struct identity_call *c, const struct tb_http_response *rs,
                             struct authorize_verdict *v)
{
    if (rs->status == 404)
        return identity_fail(v, c,
                             "this control plane knows no enrolment (HTTP 404); remove the credential "
                             "enrolment-code");
    if (rs->status == 400)
        return identity_fail(v, c, "the control plane does not take the request (HTTP 400)");
    authorize_response_judge(rs, c->cfg->insecure_http, tb_now_realtime_us(), v);
    return false;
}

static bool identity_take(const struct identity_call *c, const struct tb_http_response *rs,
                          struct authorize_verdict *v)
{
    _cleanup_json_ cJSON *o = NULL;
    const char *cert, *name = "";
    char why[TB_JSON_ERR_MAX];
    int r;

    if (tb_json_parse(rs->body, rs->len, TB_HTTP_RESPONSE_MAX, &o, why) < 0 ||
        tb_json_get_string(o, "certificate", &cert, why) < 0)
        return identity_fail(v, c, "the answer has no certificate");
    (void)tb_json_get_string(o, "machine_id", &name, why);
    r = identity_save(c->path, c->code_hash, cert, c->key);
    if (r == -EKEYREJECTED)
        return identity_fail(v, c, "the certificate in the answer is not of this machine's key");
    if (r < 0)
        return identity_fail(v, c, strerror(-r));
    tb_info("%s%.80s",
            c->code || c->identity_token ? "enrolled at the control plane as machine "
                                         : "renewed the certificate of machine ",
            name);
    return true;
}

static bool identity_ask(const struct identity_call *c, struct authorize_verdict *v)
{
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    size_t n = strlen(c->cfg->edc_endpoint);
    _cleanup_free_ char *csr = identity_csr(c->key), *url = NULL;
    _cleanup_erase_string_ char *body = csr ? identity_body(c, csr) : NULL;
    _cleanup_http_response_ struct tb_http_response rs = {0};
    struct tb_http_tls tls = *c->tls;
    char err[TB_HTTP_ERR_MAX];

    url = tb_strf("%.*s/api/v1/machines/%s", (int)(n && c->cfg->edc_endpoint[n - 1] == '/' ? n - 1 : n),
                  c->cfg->edc_endpoint, c->call);
    if (!body || !url)
        return identity_fail(v, c, "out of memory");
    if (!c->code && !c->identity_token)
        tls.client_cert = tls.client_key = c->path;
    if (tb_http_do(&(struct tb_http_request){.method = "POST",
                                             .url = url,
                                             .headers = headers,
                                             .body = body,
                                             .body_len = strlen(body),
                                             .timeout_ms = IDENTITY_TIMEOUT_MS,
                                             .tls = &tls},
                   &rs, err) < 0)
        return identity_fail(v, c, err);
    return rs.status == 200 ? identity_take(c, &rs, v) : identity_refused(c, &rs, v);
}

/* -- when -------------------------------------------------------------------------------------- */

static bool identity_enrol(struct identity_call *c, bool has_one, struct authorize_verdict *v)
{
    _cleanup_free_ char *pending = identity_file(c->cfg, "machine.key");
    _cleanup_pkey_ EVP_PKEY *k = NULL;
    int r = pending ? identity_new_key(pending, has_one ? c->path : NULL, &k) : -ENOMEM;
    bool ok;

    if (r < 0)
        return identity_fail(v, c, strerror(-r));
    c->key = k;
    ok = identity_ask(c, v);
    /* a machine that was expelled before it heard that it had enrolled never gets in with this key */
    if (ok || (v->outcome.code == AUTHORIZE_DENIED && strcmp(v->outcome.reason, "machine_expelled") == 0))
        (void)unlink(pending);
    if (ok || !has_one)
        return ok;
    /* a code that came later and is no good takes nothing away */
    tb_warn("The new enrolment code: %s; the machine keeps the identity that it has", v->outcome.reason);
    v->outcome = (struct tb_outcome){0};
    return true;
}

/* A renewal that fails matters when the certificate is over: until then the old one does. */
static bool identity_renew(struct identity_call *c, const struct tb_certificate *cert, uint64_t now,
                           struct authorize_verdict *v)
{
    _cleanup_pkey_ EVP_PKEY *k = identity_read_key(c->path);

    if (!k)
        return identity_fail(v, c,
                             "machine.pem is damaged; remove it and give the machine a new enrolment code");
    c->key = k;
    if (identity_ask(c, v))
        return true;
    if (v->outcome.code == AUTHORIZE_DENIED || cert->until_us <= now)
        return false;
    tb_warn("%s; the old one is good until it ends", v->outcome.reason);
    v->outcome = (struct tb_outcome){0};
    return true;
}

static bool identity_whole(const char *path)
{
    _cleanup_pkey_ EVP_PKEY *k = identity_read_key(path);
    char err[TB_CERTIFICATE_ERR_MAX];
    struct tb_certificate cert;

    (void)tb_certificate_read(path, false, tb_now_realtime_us(), &cert);
    return k && cert.until_us && tb_certificate_match(path, path, err) == 0;
}

/* A machine of a purchase has no code: its managed identity says which application it is of. Where that does
 * not work the contract may want none; the answer to the question itself says so. */
static bool identity_enrol_purchased(struct identity_call *c, struct authorize_verdict *v)
{
    struct tb_azure_token token = {0};
    char err[TB_AZURE_ERR_MAX];
    bool ok;

    if (tb_azure_identity_token("management.azure.com", NULL, &token, err) < 0) {
        tb_warn("No enrolment by this machine's managed identity: %s", err);
        return true;
    }
    c->identity_token = token.text;
    c->code_hash = "";
    ok = identity_enrol(c, false, v);
    tb_secret_free(token.text);
    if (!ok && v->outcome.code == AUTHORIZE_DENIED) {
        tb_warn("Enrolment by this machine's managed identity: %s", v->outcome.reason);
        v->outcome = (struct tb_outcome){0};
        return true;
    }
    return ok;
}

static bool identity_is_purchased(const char *contract_id)
{
    return strncmp(contract_id, "app-", 4) == 0 && strlen(contract_id) == TB_APPLICATION_CONTRACT_MAX;
}

/* The code alone, in small letters as it was printed: a file may have a byte order mark, lines around it,
 * capitals. *ret: heap, to be wiped; NULL: no credential, or nothing in it. */
static int identity_read_code(const char *path, char **ret)
{
    _cleanup_erase_string_ char *text = NULL;
    const char *at;
    int r;

    *ret = NULL;
    if (!path)
        return 0;
    r = tb_read_file(path, IDENTITY_CODE_MAX, &text, NULL);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    at = text + (strncmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0);
    at += strspn(at, " \t\r\n");
    *ret = strndup(at, strcspn(at, " \t\r\n"));
    if (!*ret)
        return -ENOMEM;
    for (char *p = *ret; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return 0;
}

bool authorize_identity_prepare(const struct tb_config *cfg, const struct tb_http_tls *tls,
                                const char *code_path, bool renew, struct authorize_verdict *v)
{
    _cleanup_free_ char *have = authorize_identity_path(cfg), *path = identity_file(cfg, "machine.pem");
    struct identity_call c = {.cfg = cfg, .tls = tls, .call = "enrol", .path = path};
    char hash[2 * SHA256_DIGEST_LENGTH + 1] = "", used[2 * SHA256_DIGEST_LENGTH + 1];
    _cleanup_erase_string_ char *code = NULL;
    struct tb_certificate cert;
    uint64_t now = tb_now_realtime_us();
    int r = path ? identity_read_code(code_path, &code) : -ENOMEM;

    if (r < 0 && !have) {
        tb_outcome_set(&v->outcome, AUTHORIZE_RETRY,
                       "enrolment: credential enrolment-code: %s; it must hold the code and nothing else",
                       strerror(-r));
        return false;
    }
    identity_used_code(have, used);
    if (code)
        identity_code_hash(code, hash);
    if (code && *code && strcmp(hash, used) != 0) {
        c.code = code;
        c.code_hash = hash;
        return identity_enrol(&c, have && identity_whole(path), v);
    }
    if (!have && identity_is_purchased(cfg->contract_id))
        return identity_enrol_purchased(&c, v);
    if (!have)
        return true;
    if (!identity_whole(path))
        return identity_fail(v, &c, "machine.pem is damaged; give the machine a new enrolment code");
    (void)tb_certificate_read(path, false, now, &cert);
    if (cert.until_us == 0 || (!renew && cert.until_us > now + (cert.until_us - cert.from_us) / 3))
        return true;
    c.call = "renew";
    c.code_hash = used;
    return identity_renew(&c, &cert, now, v);
}
