/* SPDX-License-Identifier: Apache-2.0 */
/* HPKE against itself with a key in the open, and against OpenSSL's where that has one (3.2 and later). Another
 * implementation checks it in tests/integration/software_tpm.py. */
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/opensslv.h>
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
#include <openssl/hpke.h>
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/attest.h"
#include "common/hex.h"
#include "common/tpm_key.h"

static const uint8_t text[] = "0123456789abcdef0123456789abcdef";
#define TEXT_BYTES 32

static void point_of(EVP_PKEY *k, uint8_t out[static TB_P256_POINT_BYTES])
{
    size_t n = 0;

    assert_int_equal(
        EVP_PKEY_get_octet_string_param(k, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, out, TB_P256_POINT_BYTES, &n),
        1);
    assert_int_equal(n, TB_P256_POINT_BYTES);
}

/* What the TPM does: x of key * enc. */
static void exchange(EVP_PKEY *k, const uint8_t *enc, uint8_t z[static TB_P256_COORDINATE_BYTES])
{
    EVP_PKEY_CTX *make = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL), *c;
    OSSL_PARAM p[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char *)"P-256", 0),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)enc, TB_P256_POINT_BYTES),
        OSSL_PARAM_construct_end()};
    size_t n = TB_P256_COORDINATE_BYTES;
    EVP_PKEY *peer = NULL;

    assert_int_equal(EVP_PKEY_fromdata_init(make), 1);
    assert_int_equal(EVP_PKEY_fromdata(make, &peer, EVP_PKEY_PUBLIC_KEY, p), 1);
    c = EVP_PKEY_CTX_new(k, NULL);
    assert_int_equal(EVP_PKEY_derive_init(c), 1);
    assert_int_equal(EVP_PKEY_derive_set_peer(c, peer), 1);
    assert_int_equal(EVP_PKEY_derive(c, z, &n), 1);
    EVP_PKEY_CTX_free(c);
    EVP_PKEY_CTX_free(make);
    EVP_PKEY_free(peer);
}

static void test_what_is_sealed_opens_for_its_info_alone(void **state)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    uint8_t pk[TB_P256_POINT_BYTES], enc[TB_P256_POINT_BYTES], z[TB_P256_COORDINATE_BYTES];
    uint8_t ct[TEXT_BYTES + TB_HPKE_TAG_BYTES], out[TEXT_BYTES], nothing[TEXT_BYTES] = {0};

    point_of(k, pk);
    assert_int_equal(tb_hpke_seal(pk, "info", 4, text, TEXT_BYTES, enc, ct), 0);
    exchange(k, enc, z);
    assert_int_equal(tb_hpke_open(z, enc, pk, "info", 4, ct, sizeof(ct), out), 0);
    assert_memory_equal(out, text, TEXT_BYTES);
    assert_int_equal(tb_hpke_open(z, enc, pk, "inf", 3, ct, sizeof(ct), out), -EBADMSG);
    assert_memory_equal(out, nothing, TEXT_BYTES);
    for (size_t i = 0; i < sizeof(ct); i++) {
        ct[i] ^= 1;
        assert_int_equal(tb_hpke_open(z, enc, pk, "info", 4, ct, sizeof(ct), out), -EBADMSG);
        ct[i] ^= 1;
    }
    z[31] ^= 1;
    assert_int_equal(tb_hpke_open(z, enc, pk, "info", 4, ct, sizeof(ct), out), -EBADMSG);
    assert_int_equal(tb_hpke_open(z, enc, pk, "info", 4, ct, TB_HPKE_TAG_BYTES - 1, out), -EINVAL);
    EVP_PKEY_free(k);
}

static void test_a_point_off_the_curve_is_refused(void **state)
{
    EVP_PKEY *k = EVP_EC_gen("P-256");
    uint8_t pk[TB_P256_POINT_BYTES], enc[TB_P256_POINT_BYTES], ct[TEXT_BYTES + TB_HPKE_TAG_BYTES];

    point_of(k, pk);
    pk[64] ^= 1;
    assert_int_equal(tb_hpke_seal(pk, "", 0, text, TEXT_BYTES, enc, ct), -EINVAL);
    memset(pk, 0, sizeof(pk));
    assert_int_equal(tb_hpke_seal(pk, "", 0, text, TEXT_BYTES, enc, ct), -EINVAL);
    pk[0] = 4;
    assert_int_equal(tb_hpke_seal(pk, "", 0, text, TEXT_BYTES, enc, ct), -EINVAL);
    EVP_PKEY_free(k);
}

#if OPENSSL_VERSION_NUMBER >= 0x30200000L
static void test_openssl_seals_and_opens_the_same(void **state)
{
    const OSSL_HPKE_SUITE suite = {OSSL_HPKE_KEM_ID_P256, OSSL_HPKE_KDF_ID_HKDF_SHA256,
                                   OSSL_HPKE_AEAD_ID_AES_GCM_256};
    uint8_t pk[TB_P256_POINT_BYTES], enc[TB_P256_POINT_BYTES], z[TB_P256_COORDINATE_BYTES];
    uint8_t ct[TEXT_BYTES + TB_HPKE_TAG_BYTES], out[TEXT_BYTES];
    size_t pk_len = sizeof(pk), enc_len = sizeof(enc), ct_len = sizeof(ct), out_len = sizeof(out);
    OSSL_HPKE_CTX *c;
    EVP_PKEY *k = NULL;

    assert_int_equal(OSSL_HPKE_keygen(suite, pk, &pk_len, &k, NULL, 0, NULL, NULL), 1);
    c = OSSL_HPKE_CTX_new(OSSL_HPKE_MODE_BASE, suite, OSSL_HPKE_ROLE_SENDER, NULL, NULL);
    assert_int_equal(OSSL_HPKE_encap(c, enc, &enc_len, pk, pk_len, (const uint8_t *)"info", 4), 1);
    assert_int_equal(OSSL_HPKE_seal(c, ct, &ct_len, NULL, 0, text, TEXT_BYTES), 1);
    OSSL_HPKE_CTX_free(c);
    exchange(k, enc, z);
    assert_int_equal(tb_hpke_open(z, enc, pk, "info", 4, ct, ct_len, out), 0);
    assert_memory_equal(out, text, TEXT_BYTES);

    assert_int_equal(tb_hpke_seal(pk, "info", 4, text, TEXT_BYTES, enc, ct), 0);
    c = OSSL_HPKE_CTX_new(OSSL_HPKE_MODE_BASE, suite, OSSL_HPKE_ROLE_RECEIVER, NULL, NULL);
    assert_int_equal(OSSL_HPKE_decap(c, enc, sizeof(enc), k, (const uint8_t *)"info", 4), 1);
    memset(out, 0, sizeof(out));
    assert_int_equal(OSSL_HPKE_open(c, out, &out_len, NULL, 0, ct, sizeof(ct)), 1);
    assert_memory_equal(out, text, TEXT_BYTES);
    OSSL_HPKE_CTX_free(c);
    EVP_PKEY_free(k);
}
#endif

/* -- what the three programs agree on ------------------------------------------------------------ */
static void test_names_cannot_run_into_each_other(void **state)
{
    const uint8_t challenge[TB_CHALLENGE_BYTES] = {0};
    const struct tb_attest_subject a = {"ab", "c", "d"}, b = {"a", "bc", "d"};
    uint8_t of_a[TB_TPM_DIGEST_BYTES], of_b[TB_TPM_DIGEST_BYTES], info[TB_HPKE_INFO_MAX];
    char hex[2 * TB_TPM_DIGEST_BYTES + 1], longest[TB_HPKE_INFO_MAX + 1];
    size_t len;

    assert_int_equal(tb_attest_extra(challenge, &a, of_a), 0);
    assert_int_equal(tb_attest_extra(challenge, &b, of_b), 0);
    assert_memory_not_equal(of_a, of_b, sizeof(of_a));
    tb_hex_encode(of_a, sizeof(of_a), hex);
    assert_string_equal(hex, "852101e1ed8c78ce02009f35ac6e9c81dda65710a95d4426df1c93cdf461bfd9");
    assert_int_equal(tb_attest_info("ab", "c", "none", info, &len), 0);
    assert_int_equal(len, 25 + 2 + 2 + 2 + 1 + 2 + 4);
    assert_memory_equal(info, "trustbridge model key v1\0\0\2ab\0\1c\0\4none", len);
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(tb_attest_info(longest, "c", "none", info, &len), -EINVAL);
}

static void test_a_sealed_key_as_a_credential(void **state)
{
    struct tb_wrapped_key k = {.pcrs = 1U << 4 | 1U << 11}, read;
    uint8_t b[TB_WRAPPED_KEY_BYTES];

    memset(k.enc, 2, sizeof(k.enc));
    memset(k.ct, 3, sizeof(k.ct));
    tb_wrapped_key_write(&k, b);
    assert_int_equal(sizeof(b), 125);
    assert_memory_equal(b, "TBWK0001\0\0\x08\x10\x02", 13);
    assert_int_equal(tb_wrapped_key_read(b, sizeof(b), &read), 0);
    assert_int_equal(read.pcrs, k.pcrs);
    assert_memory_equal(read.enc, k.enc, sizeof(k.enc));
    assert_memory_equal(read.ct, k.ct, sizeof(k.ct));
    assert_int_equal(tb_wrapped_key_read(b, sizeof(b) - 1, &read), -EBADMSG);
    b[9] = 1; /* PCR 16 */
    assert_int_equal(tb_wrapped_key_read(b, sizeof(b), &read), -EBADMSG);
    b[9] = 0;
    b[0] = 't';
    assert_int_equal(tb_wrapped_key_read(b, sizeof(b), &read), -EBADMSG);
}

static void test_a_key_of_the_template_and_no_other(void **state)
{
    static const struct tb_tpm_pcrs pcrs;
    uint8_t policy[TB_TPM_DIGEST_BYTES], other[TB_TPM_DIGEST_BYTES], point[TB_P256_POINT_BYTES];
    struct tb_tpm_writer w = {.n = 0};

    tb_tpm_pcrs_policy(1U << 4, &pcrs, policy);
    tb_tpm_pcrs_policy(1U << 5, &pcrs, other);
    tb_tpm_key_template(&w, policy);
    assert_int_equal(tb_tpm_key_read((struct tb_tpm_span){w.b, w.n}, policy, point), -EINVAL); /* no point */
    w.n -= 4;
    tb_tpm_put_2b(&w, "\x7f\x01", 2); /* without its leading zeros */
    tb_tpm_put_2b(&w, policy, 32);
    assert_int_equal(tb_tpm_key_read((struct tb_tpm_span){w.b, w.n}, policy, point), 0);
    assert_int_equal(point[0], 4);
    assert_int_equal(point[31], 0x7f);
    assert_int_equal(point[32], 0x01);
    assert_int_equal(tb_tpm_key_read((struct tb_tpm_span){w.b, w.n}, other, point), -EPERM);
    for (size_t i = 0; i < 10; i++) { /* type, name, attributes, length of the policy */
        w.b[i] ^= 0x40;
        assert_int_equal(tb_tpm_key_read((struct tb_tpm_span){w.b, w.n}, policy, point), -EINVAL);
        w.b[i] ^= 0x40;
    }
    assert_int_equal(tb_tpm_key_read((struct tb_tpm_span){w.b, w.n - 1}, policy, point), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_sealed_opens_for_its_info_alone),
        cmocka_unit_test(test_a_point_off_the_curve_is_refused),
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
        cmocka_unit_test(test_openssl_seals_and_opens_the_same),
#endif
        cmocka_unit_test(test_names_cannot_run_into_each_other),
        cmocka_unit_test(test_a_sealed_key_as_a_credential),
        cmocka_unit_test(test_a_key_of_the_template_and_no_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
