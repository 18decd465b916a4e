/* SPDX-License-Identifier: Apache-2.0 */
/* Keys of issuers, by their numbers and by a certificate (x5c): which are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

#include "common/base64.h"
#include "controlplane/access/jwt.h"

static EVP_PKEY *signer;

static int make_signer(void **state)
{
    signer = EVP_RSA_gen(2048);
    return signer ? 0 : -1;
}

static int free_signer(void **state)
{
    EVP_PKEY_free(signer);
    return 0;
}

/* The signer's modulus with another exponent. */
static EVP_PKEY *key_of(unsigned long exponent)
{
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    BIGNUM *n = NULL, *e = BN_new();
    EVP_PKEY *key = NULL;
    OSSL_PARAM *p;

    assert_int_equal(EVP_PKEY_get_bn_param(signer, OSSL_PKEY_PARAM_RSA_N, &n), 1);
    assert_int_equal(BN_set_word(e, exponent), 1);
    assert_int_equal(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n), 1);
    assert_int_equal(OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, e), 1);
    p = OSSL_PARAM_BLD_to_param(b);
    assert_int_equal(EVP_PKEY_fromdata_init(c), 1);
    assert_int_equal(EVP_PKEY_fromdata(c, &key, EVP_PKEY_PUBLIC_KEY, p), 1);
    OSSL_PARAM_free(p);
    OSSL_PARAM_BLD_free(b);
    EVP_PKEY_CTX_free(c);
    BN_free(n);
    BN_free(e);
    return key;
}

/* How many keys a set has whose one member has a certificate of this key. */
static size_t keys_by_certificate(EVP_PKEY *key)
{
    char text[16384], err[CP_JWT_ERR_MAX], jwks[20000];
    X509 *x = X509_new();
    uint8_t *der = NULL;
    struct cp_jwks set;
    size_t found;
    int n;

    assert_int_equal(X509_set_version(x, X509_VERSION_3), 1);
    assert_int_equal(ASN1_INTEGER_set(X509_get_serialNumber(x), 1), 1);
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(x), 0));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(x), 86400));
    assert_int_equal(X509_set_pubkey(x, key), 1);
    assert_true(X509_sign(x, signer, EVP_sha256()) > 0);
    n = i2d_X509(x, &der);
    assert_in_range(n, 1, 8000);
    tb_base64_encode(der, (size_t)n, text);
    n = snprintf(jwks, sizeof(jwks), "{\"keys\":[{\"kty\":\"RSA\",\"kid\":\"k\",\"x5c\":[\"%s\"]}]}", text);
    assert_int_equal(cp_jwks_parse(jwks, (size_t)n, &set, err), 0);
    found = set.n;
    cp_jwks_clear(&set);
    OPENSSL_free(der);
    X509_free(x);
    EVP_PKEY_free(key);
    return found;
}

/* By 1 everybody signs: the signature is the message. */
static void test_exponents(void **state)
{
    assert_int_equal(keys_by_certificate(key_of(65537)), 1);
    assert_int_equal(keys_by_certificate(key_of(3)), 1);
    assert_int_equal(keys_by_certificate(key_of(1)), 0);
    assert_int_equal(keys_by_certificate(key_of(65536)), 0);
}

static void test_sizes_and_kinds(void **state)
{
    assert_int_equal(keys_by_certificate(EVP_RSA_gen(1024)), 0);
    assert_int_equal(keys_by_certificate(EVP_EC_gen("P-256")), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exponents),
        cmocka_unit_test(test_sizes_and_kinds),
    };

    return cmocka_run_group_tests(tests, make_signer, free_signer);
}
