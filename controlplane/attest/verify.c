/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/verify.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/x509.h>
#include <string.h>

#include "common/hex.h"
#include "common/tpm_key.h"

/* TPMS_ATTEST, part 2, 10.12 */
#define GENERATED_VALUE 0xff544347U
#define ATTEST_CERTIFY 0x8017
#define ATTEST_QUOTE 0x8018
#define SAFE_AND_VERSION_BYTES (1 + 8)
#define RSA_MODULUS_MIN 256 /* bytes */
#define RSA_EXPONENT 65537  /* what 0 stands for */

#define UNTRUSTED "attestation_untrusted_key"
#define STALE "attestation_stale"
#define BAD_SIGNATURE "attestation_bad_signature"
#define MALFORMED "attestation_malformed"
#define PCR_SELECTION "attestation_pcr_selection"
#define PCR_DIGEST "attestation_pcr_digest"
#define KEY_UNBOUND "attestation_key_unbound"
#define KEY_POLICY "attestation_key_policy"
#define SNP_REQUIRED "attestation_snp_required"
#define SNP_UNTRUSTED "attestation_snp_untrusted"

static const char *refuse(char *detail, const char *reason, const char *text)
{
    snprintf(detail, CP_ATTEST_DETAIL_MAX, "%s", text);
    return reason;
}

static struct tb_tpm_span part_span(const struct tb_tpm_part *p)
{
    return (struct tb_tpm_span){.p = p->b, .n = p->n};
}

static void ak_freep(EVP_PKEY **k)
{
    EVP_PKEY_free(*k);
}

static EVP_PKEY *rsa_key(struct tb_tpm_span modulus, uint32_t exponent)
{
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    BIGNUM *n = BN_bin2bn(modulus.p, (int)modulus.n, NULL), *e = BN_new();
    EVP_PKEY_CTX *c = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    OSSL_PARAM *p = NULL;
    EVP_PKEY *key = NULL;

    if (b && n && e && c && BN_set_word(e, exponent) == 1 &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n) == 1 &&
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, e) == 1)
        p = OSSL_PARAM_BLD_to_param(b);
    if (p && EVP_PKEY_fromdata_init(c) == 1)
        (void)EVP_PKEY_fromdata(c, &key, EVP_PKEY_PUBLIC_KEY, p);
    OSSL_PARAM_free(p);
    OSSL_PARAM_BLD_free(b);
    EVP_PKEY_CTX_free(c);
    BN_free(n);
    BN_free(e);
    return key;
}

/* TPMT_PUBLIC of an attestation key: an RSA key that signs what the TPM itself made, and nothing else. NULL:
 * it is none. */
static EVP_PKEY *ak_read(const struct tb_tpm_part *ak)
{
    const uint32_t want =
        TB_TPM_RESTRICTED | TB_TPM_SIGN | TB_TPM_FIXED_TPM | TB_TPM_FIXED_PARENT | TB_TPM_SENSITIVE_ORIGIN;
    struct tb_tpm_reader r = tb_tpm_reader(part_span(ak));
    uint16_t type = tb_tpm_take_u16(&r), symmetric, scheme, bits;
    uint32_t attributes, exponent;
    struct tb_tpm_span modulus;

    (void)tb_tpm_take_u16(&r); /* name algorithm: nobody goes by the name */
    attributes = tb_tpm_take_u32(&r);
    (void)tb_tpm_take_2b(&r);
    symmetric = tb_tpm_take_u16(&r);
    scheme = tb_tpm_take_u16(&r);
    if (scheme == TB_TPM_ALG_RSASSA && tb_tpm_take_u16(&r) != TB_TPM_ALG_SHA256)
        return NULL;
    bits = tb_tpm_take_u16(&r);
    exponent = tb_tpm_take_u32(&r);
    modulus = tb_tpm_take_2b(&r);
    if (!tb_tpm_is_read(&r) || type != TB_TPM_ALG_RSA || (attributes & want) != want ||
        (attributes & TB_TPM_DECRYPT) || symmetric != TB_TPM_ALG_NULL ||
        (scheme != TB_TPM_ALG_NULL && scheme != TB_TPM_ALG_RSASSA) || modulus.n < RSA_MODULUS_MIN ||
        modulus.n != bits / 8U)
        return NULL;
    return rsa_key(modulus, exponent ? exponent : RSA_EXPONENT);
}

static int ak_fingerprint(EVP_PKEY *key, char ret[static CP_AK_HEX + 1])
{
    uint8_t digest[TB_TPM_DIGEST_BYTES], *der = NULL;
    int n = i2d_PUBKEY(key, &der), r = -EIO;

    if (n > 0 && EVP_Digest(der, (size_t)n, digest, NULL, EVP_sha256(), NULL) == 1) {
        tb_hex_encode(digest, sizeof(digest), ret);
        r = 0;
    }
    OPENSSL_free(der);
    return r;
}

static bool ak_is_pinned(const struct cp_attest_trust *t, const char *ak)
{
    for (size_t i = 0; i < t->n_pins; i++)
        if (strcmp(t->pins[i], ak) == 0)
            return true;
    return false;
}

static const char *check_ak(const struct cp_evidence *e, const struct cp_attest_rules *rules, EVP_PKEY *key,
                            const char *ak, char *detail)
{
    _cleanup_(ak_freep) EVP_PKEY *certified = NULL;
    const char *why;

    if (ak_is_pinned(rules->trust, ak))
        return NULL;
    if (!rules->trust->roots) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX, "the key %.16s is not one that the contract names", ak);
        return UNTRUSTED;
    }
    if (!e->ak_cert_len)
        return refuse(detail, UNTRUSTED, "the attestation key has no certificate");
    certified = cp_attest_roots_verify(rules->roots, rules->trust->roots, e->ak_cert, e->ak_cert_len,
                                       rules->now_s, &why);
    if (!certified)
        return refuse(detail, UNTRUSTED, why);
    return EVP_PKEY_eq(certified, key) == 1 ? NULL
                                            : refuse(detail, UNTRUSTED, "the certificate is of another key");
}

/* TPMT_SIGNATURE, RSASSA with SHA-256. */
static bool is_signed(EVP_PKEY *key, const struct tb_tpm_part *message, const struct tb_tpm_part *signature)
{
    struct tb_tpm_reader r = tb_tpm_reader(part_span(signature));
    uint16_t scheme = tb_tpm_take_u16(&r), hash = tb_tpm_take_u16(&r);
    struct tb_tpm_span sig = tb_tpm_take_2b(&r);
    EVP_MD_CTX *c;
    bool ok;

    if (!tb_tpm_is_read(&r) || scheme != TB_TPM_ALG_RSASSA || hash != TB_TPM_ALG_SHA256)
        return false;
    c = EVP_MD_CTX_new();
    ok = c && EVP_DigestVerifyInit(c, NULL, EVP_sha256(), NULL, key) == 1 &&
         EVP_DigestVerify(c, sig.p, sig.n, message->b, message->n) == 1;
    EVP_MD_CTX_free(c);
    return ok;
}

static struct cp_tpm_clock take_clock(struct tb_tpm_reader *r)
{
    uint64_t high = tb_tpm_take_u32(r), low = tb_tpm_take_u32(r);
    struct cp_tpm_clock c = {.ms = high << 32 | low};

    c.resets = tb_tpm_take_u32(r);
    c.restarts = tb_tpm_take_u32(r);
    (void)tb_tpm_take(r, SAFE_AND_VERSION_BYTES);
    return c;
}

/* The head of a TPMS_ATTEST; what is of its type is left in *r. */
static const char *check_head(struct tb_tpm_reader *r, uint16_t type, const uint8_t *extra,
                              struct cp_tpm_clock *ret, char *detail)
{
    uint32_t magic = tb_tpm_take_u32(r);
    uint16_t is = tb_tpm_take_u16(r);
    struct tb_tpm_span data;

    (void)tb_tpm_take_2b(r); /* qualifiedSigner */
    data = tb_tpm_take_2b(r);
    *ret = take_clock(r);
    if (r->bad || magic != GENERATED_VALUE || is != type)
        return refuse(detail, MALFORMED,
                      type == ATTEST_QUOTE ? "\"quote\" is no quote" : "\"key_certify\" is no certificate");
    if (data.n != TB_TPM_DIGEST_BYTES || !tb_mem_equal(data.p, extra, TB_TPM_DIGEST_BYTES))
        return refuse(detail, STALE, "the evidence is for another challenge, contract, asset or machine");
    return NULL;
}

/* Behind the head of a quote: NULL, its registers are these. */
static const char *check_registers(struct tb_tpm_reader *r, const struct tb_tpm_pcrs *pcrs, char *detail)
{
    uint8_t digest[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_span has;

    /* Exactly these: else a register that is free could stand in for one that is measured. */
    if (tb_tpm_take_selection(r) != TB_ATTEST_QUOTED)
        return refuse(detail, PCR_SELECTION, "the quote is not of PCR 0 to 15 of the SHA-256 bank alone");
    has = tb_tpm_take_2b(r);
    tb_tpm_pcrs_digest(TB_ATTEST_QUOTED, pcrs, digest);
    if (!tb_tpm_is_read(r) || has.n != sizeof(digest) || !tb_mem_equal(has.p, digest, sizeof(digest)))
        return refuse(detail, PCR_DIGEST, "the values of the PCRs are not those that were quoted");
    return NULL;
}

static const char *check_quote(const struct cp_evidence *e, const struct cp_attest_rules *rules,
                               struct cp_tpm_clock *ret, char *detail)
{
    struct tb_tpm_reader r = tb_tpm_reader(part_span(&e->quote));
    const char *reason = check_head(&r, ATTEST_QUOTE, rules->extra, ret, detail);

    return reason ? reason : check_registers(&r, &e->pcrs, detail);
}

static const char *check_certify(const struct cp_evidence *e, const struct cp_attest_rules *rules,
                                 char *detail)
{
    struct tb_tpm_reader r = tb_tpm_reader(part_span(&e->key_certify));
    struct cp_tpm_clock clock;
    const char *reason = check_head(&r, ATTEST_CERTIFY, rules->extra, &clock, detail);
    uint8_t name[2 + TB_TPM_DIGEST_BYTES] = {0x00, TB_TPM_ALG_SHA256};
    struct tb_tpm_span has;

    if (reason)
        return reason;
    has = tb_tpm_take_2b(&r);
    (void)tb_tpm_take_2b(&r); /* its qualified name */
    if (EVP_Digest(e->key.b, e->key.n, name + 2, NULL, EVP_sha256(), NULL) != 1 || !tb_tpm_is_read(&r) ||
        has.n != sizeof(name) || !tb_mem_equal(has.p, name, sizeof(name)))
        return refuse(detail, KEY_UNBOUND, "the TPM certified another key than this one");
    return NULL;
}

/* Its policy is of the values that were quoted: no other boot can use it. */
static const char *check_key(const struct cp_evidence *e, const struct cp_attest_rules *rules,
                             struct cp_attested *ret, char *detail)
{
    uint8_t policy[TB_TPM_DIGEST_BYTES];
    int r;

    tb_tpm_pcrs_policy(rules->pcrs, &e->pcrs, policy);
    r = tb_tpm_key_read(part_span(&e->key), policy, ret->point);
    if (r == -EPERM)
        return refuse(detail, KEY_POLICY,
                      "the boot key is not bound to the PCRs that were asked for and quoted");
    return r < 0 ? refuse(detail, KEY_UNBOUND, "the boot key is not of the template") : NULL;
}

static void vcek_freep(X509 **x)
{
    X509_free(*x);
}

/* The memory of the machine is encrypted, and this TPM is within it. */
static const char *check_snp(const struct cp_evidence *e, const struct cp_attest_rules *rules, EVP_PKEY *ak,
                             char *detail)
{
    _cleanup_(vcek_freep) X509 *vcek = NULL;
    struct cp_hcl h;
    const char *why;

    if (!e->snp_len)
        return refuse(detail, SNP_REQUIRED,
                      "this machine is no confidential VM with SEV-SNP; choose such a size");
    if (!e->vcek_len)
        return refuse(detail, SNP_REQUIRED, "the processor's certificate (VCEK) is not there");
    if (cp_hcl_parse(e->snp, e->snp_len, &h) < 0)
        return refuse(detail, MALFORMED,
                      "\"snp\" is no report of Azure's firmware with one of SEV-SNP in it");
    vcek = cp_attest_roots_vcek(rules->roots, e->vcek, e->vcek_len, rules->now_s, &why);
    if (!vcek) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX, "the processor's certificate (VCEK): %s", why);
        return SNP_UNTRUSTED;
    }
    return cp_snp_judge(&h, vcek, ak, rules->snp, detail);
}

static const char *check_maa(const struct cp_evidence *e, const struct cp_attest_rules *rules, EVP_PKEY *ak,
                             char *detail)
{
    if (!*e->maa && !e->snp_len)
        return refuse(detail, SNP_REQUIRED,
                      "this machine is no confidential VM with SEV-SNP; choose such a size");
    if (!*e->maa)
        snprintf(detail, CP_ATTEST_DETAIL_MAX, "the contract asks for a token of %s (Azure Attestation)",
                 rules->maa->issuer);
    if (!*e->maa)
        return CP_MAA_REQUIRED;
    return cp_maa_judge(e->maa, rules->maa, ak, rules->extra, rules->snp, rules->now_s, detail);
}

const char *cp_evidence_verify(const struct cp_evidence *e, const struct cp_attest_rules *rules,
                               struct cp_attested *ret, char detail[static CP_ATTEST_DETAIL_MAX])
{
    _cleanup_(ak_freep) EVP_PKEY *key = ak_read(&e->ak);
    const char *reason;

    detail[0] = '\0';
    if (!key || ak_fingerprint(key, ret->ak) < 0)
        return refuse(detail, UNTRUSTED,
                      "the attestation key is not an RSA key of at least 2048 bits that a TPM restricts");
    reason = check_ak(e, rules, key, ret->ak, detail);
    if (!reason &&
        (!is_signed(key, &e->quote, &e->quote_sig) || !is_signed(key, &e->key_certify, &e->key_sig)))
        reason = refuse(detail, BAD_SIGNATURE, "quote and certificate are not signed by the attestation key");
    ERR_clear_error();
    if (!reason)
        reason = check_quote(e, rules, &ret->clock, detail);
    if (!reason)
        reason = check_certify(e, rules, detail);
    if (!reason && e->key_pcrs != rules->pcrs)
        reason = refuse(detail, KEY_POLICY, "the boot key is for other PCRs than were asked for");
    if (!reason)
        reason = check_key(e, rules, ret, detail);
    if (reason || !rules->snp)
        return reason;
    return rules->maa ? check_maa(e, rules, key, detail) : check_snp(e, rules, key, detail);
}

int cp_quote_verify(const struct tb_tpm_part *ak, const struct tb_tpm_part *quote,
                    const struct tb_tpm_part *signature, const uint8_t extra[static TB_TPM_DIGEST_BYTES],
                    const struct tb_tpm_pcrs *pcrs, char ret_ak[static CP_AK_HEX + 1],
                    struct cp_tpm_clock *ret)
{
    _cleanup_(ak_freep) EVP_PKEY *key = ak_read(ak);
    struct tb_tpm_reader r = tb_tpm_reader(part_span(quote));
    char detail[CP_ATTEST_DETAIL_MAX];
    const char *reason;

    if (!key || ak_fingerprint(key, ret_ak) < 0)
        return -EBADMSG;
    reason = check_head(&r, ATTEST_QUOTE, extra, ret, detail);
    if (reason && strcmp(reason, MALFORMED) == 0)
        return -EBADMSG;
    if (!reason && pcrs)
        reason = check_registers(&r, pcrs, detail);
    if (reason || !is_signed(key, quote, signature)) {
        ERR_clear_error();
        return -EACCES;
    }
    return 0;
}
