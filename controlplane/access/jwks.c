/* SPDX-License-Identifier: Apache-2.0 */
/* The issuer's keys, and what they signed. */
#include <errno.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>
#include <string.h>

#include "common/base64.h"
#include "controlplane/access/jwt.h"

#define JWKS_BYTES_MAX (256 * 1024)
#define RSA_BITS_MIN 2048
#define P256_BYTES 32
#define X5C_MAX 16384 /* characters of a certificate */

static void jwks_free_param(OSSL_PARAM **p)
{
    OSSL_PARAM_free(*p);
}
static void jwks_free_build(OSSL_PARAM_BLD **b)
{
    OSSL_PARAM_BLD_free(*b);
}
static void jwks_free_context(EVP_PKEY_CTX **c)
{
    EVP_PKEY_CTX_free(*c);
}
static void jwks_free_digest(EVP_MD_CTX **c)
{
    EVP_MD_CTX_free(*c);
}
static void jwks_free_number(BIGNUM **n)
{
    BN_free(*n);
}

void cp_jwks_clear(struct cp_jwks *k)
{
    for (size_t i = 0; i < k->n; i++)
        EVP_PKEY_free(k->v[i].key);
    k->n = 0;
}

static const char *jwk_text(const cJSON *jwk, const char *name)
{
    const cJSON *m = tb_json_member(jwk, name);

    return cJSON_IsString(m) ? m->valuestring : NULL;
}

static bool jwk_get_bytes(const cJSON *jwk, const char *name, uint8_t *out, size_t room, size_t *ret_len)
{
    const char *text = jwk_text(jwk, name);

    return text && cp_base64url_decode(text, strlen(text), out, room, ret_len) == 0 && *ret_len > 0;
}

static EVP_PKEY *jwk_make(const char *type, OSSL_PARAM_BLD *build)
{
    _cleanup_(jwks_free_param) OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(build);
    _cleanup_(jwks_free_context) EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, type, NULL);
    EVP_PKEY *key = NULL;

    if (params && c && EVP_PKEY_fromdata_init(c) == 1)
        (void)EVP_PKEY_fromdata(c, &key, EVP_PKEY_PUBLIC_KEY, params);
    return key;
}

/* With an exponent of 1 everything is its own signature. */
static bool jwk_is_sound_rsa(EVP_PKEY *key)
{
    BIGNUM *n = NULL, *e = NULL;
    bool sound = EVP_PKEY_is_a(key, "RSA") && EVP_PKEY_get_bits(key) >= RSA_BITS_MIN &&
                 EVP_PKEY_get_bits(key) <= 8 * CP_SIGNATURE_MAX &&
                 EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &n) == 1 &&
                 EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_E, &e) == 1 && BN_is_odd(n) && BN_is_odd(e) &&
                 !BN_is_one(e);

    BN_free(n);
    BN_free(e);
    return sound;
}

/* The key of the first certificate (x5c), for who gives no numbers: Azure Attestation. The certificate itself
 * says nothing more: whoever may give keys gives them by it. */
static EVP_PKEY *jwk_take_certified(const cJSON *jwk)
{
    const cJSON *first = cJSON_GetArrayItem(tb_json_member(jwk, "x5c"), 0);
    const char *text = cJSON_GetStringValue(first);
    _cleanup_free_ uint8_t *der = NULL;
    const uint8_t *p;
    EVP_PKEY *key = NULL;
    ssize_t n = -EINVAL;
    X509 *x;

    if (text && strlen(text) <= X5C_MAX)
        der = malloc(strlen(text) / 4 * 3 + 1);
    if (der)
        n = tb_base64_decode(text, strlen(text), der);
    p = der;
    x = n > 0 ? d2i_X509(NULL, &p, n) : NULL;
    if (x && p == der + n)
        key = X509_get_pubkey(x);
    X509_free(x);
    if (key && !jwk_is_sound_rsa(key)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static EVP_PKEY *jwk_make_rsa(const cJSON *jwk)
{
    _cleanup_(jwks_free_build) OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    _cleanup_(jwks_free_number) BIGNUM *n = NULL, *e = NULL;
    uint8_t n_bytes[CP_SIGNATURE_MAX], e_bytes[8];
    size_t n_len, e_len;
    EVP_PKEY *key;

    if (!build || !jwk_get_bytes(jwk, "n", n_bytes, sizeof(n_bytes), &n_len) ||
        !jwk_get_bytes(jwk, "e", e_bytes, sizeof(e_bytes), &e_len))
        return NULL;
    n = BN_bin2bn(n_bytes, (int)n_len, NULL);
    e = BN_bin2bn(e_bytes, (int)e_len, NULL);
    if (!n || !e || OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_N, n) != 1 ||
        OSSL_PARAM_BLD_push_BN(build, OSSL_PKEY_PARAM_RSA_E, e) != 1)
        return NULL;
    key = jwk_make("RSA", build);
    if (key && !jwk_is_sound_rsa(key)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static bool jwk_is_sound(EVP_PKEY *key)
{
    _cleanup_(jwks_free_context) EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);

    return c && EVP_PKEY_public_check(c) == 1;
}

static EVP_PKEY *jwk_make_p256(const cJSON *jwk)
{
    _cleanup_(jwks_free_build) OSSL_PARAM_BLD *build = OSSL_PARAM_BLD_new();
    uint8_t point[1 + 2 * P256_BYTES] = {POINT_CONVERSION_UNCOMPRESSED};
    size_t x, y;
    EVP_PKEY *key;

    if (!build || !jwk_get_bytes(jwk, "x", point + 1, P256_BYTES, &x) ||
        !jwk_get_bytes(jwk, "y", point + 1 + P256_BYTES, P256_BYTES, &y) || x != P256_BYTES ||
        y != P256_BYTES ||
        OSSL_PARAM_BLD_push_utf8_string(build, OSSL_PKEY_PARAM_GROUP_NAME, "P-256", 0) != 1 ||
        OSSL_PARAM_BLD_push_octet_string(build, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)) != 1)
        return NULL;
    key = jwk_make("EC", build);
    if (key && !jwk_is_sound(key)) {
        EVP_PKEY_free(key);
        key = NULL;
    }
    return key;
}

static bool jwk_is_for(const cJSON *jwk, const char *alg)
{
    const char *use = jwk_text(jwk, "use"), *its = jwk_text(jwk, "alg");

    return (!use || strcmp(use, "sig") == 0) && (!its || strcmp(its, alg) == 0);
}

/* One that is for something else is no fault. */
static void jwks_add(struct cp_jwks *k, const cJSON *jwk)
{
    const char *kty = jwk_text(jwk, "kty"), *kid = jwk_text(jwk, "kid"), *crv = jwk_text(jwk, "crv");
    struct cp_jwk *new = &k->v[k->n];

    if (k->n == CP_JWKS_MAX || !kty || !kid || !*kid || strlen(kid) > CP_KID_MAX)
        return;
    *new = (struct cp_jwk){0};
    if (strcmp(kty, "RSA") == 0 && jwk_is_for(jwk, "RS256")) {
        new->alg = CP_JWT_RS256;
        new->key = tb_json_member(jwk, "n") ? jwk_make_rsa(jwk) : jwk_take_certified(jwk);
    } else if (strcmp(kty, "EC") == 0 && crv && strcmp(crv, "P-256") == 0 && jwk_is_for(jwk, "ES256")) {
        new->alg = CP_JWT_ES256;
        new->key = jwk_make_p256(jwk);
    }
    strcpy(new->kid, kid);
    k->n += new->key != NULL;
}

int cp_jwks_parse(const char *text, size_t len, struct cp_jwks *ret, char err[static CP_JWT_ERR_MAX])
{
    _cleanup_json_ cJSON *j = NULL;
    char why[TB_JSON_ERR_MAX];
    const cJSON *keys, *one;

    ret->n = 0;
    if (tb_json_parse(text, len, JWKS_BYTES_MAX, &j, why) < 0) {
        snprintf(err, CP_JWT_ERR_MAX, "its keys are not JSON: %s", why);
        return -EBADMSG;
    }
    keys = tb_json_member(j, "keys");
    if (!cJSON_IsArray(keys)) {
        snprintf(err, CP_JWT_ERR_MAX, "what it has for keys is no JWK set");
        return -EBADMSG;
    }
    cJSON_ArrayForEach (one, keys) {
        if (cJSON_IsObject(one))
            jwks_add(ret, one);
    }
    ERR_clear_error(); /* of keys that were none */
    return 0;
}

/* -- signatures -------------------------------------------------------------------------------- */

/* ECDSA as JWS has it (r and s side by side) into what OpenSSL takes. The length, or 0. */
static size_t signature_der(const struct cp_jwt *t, uint8_t **ret)
{
    _cleanup_(jwks_free_number) BIGNUM *r = NULL, *s = NULL;
    ECDSA_SIG *sig = ECDSA_SIG_new();
    int n = 0;

    r = BN_bin2bn(t->signature, P256_BYTES, NULL);
    s = BN_bin2bn(t->signature + P256_BYTES, P256_BYTES, NULL);
    if (sig && r && s && ECDSA_SIG_set0(sig, r, s) == 1) {
        r = s = NULL;
        n = i2d_ECDSA_SIG(sig, ret);
    }
    ECDSA_SIG_free(sig);
    return n > 0 ? (size_t)n : 0;
}

int cp_jwt_verify(const struct cp_jwt *t, const char *text, const struct cp_jwk *key)
{
    _cleanup_(jwks_free_digest) EVP_MD_CTX *c = EVP_MD_CTX_new();
    const uint8_t *sig = t->signature;
    size_t len = t->signature_len;
    uint8_t *der = NULL;
    bool good;

    if (!c || t->alg != key->alg)
        return -EACCES;
    if (key->alg == CP_JWT_ES256) {
        len = t->signature_len == (size_t)2 * P256_BYTES ? signature_der(t, &der) : 0;
        sig = der;
    }
    good = len > 0 && EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, key->key) == 1 &&
           EVP_DigestVerify(c, sig, len, (const unsigned char *)text, t->signed_len) == 1;
    OPENSSL_free(der);
    ERR_clear_error();
    return good ? 0 : -EACCES;
}
