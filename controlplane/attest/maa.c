/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/maa.h"

#include <errno.h>
#include <string.h>

#include "common/base64.h"
#include "common/hex.h"
#include "common/text.h"
#include "common/units.h"

#define TYPE "sevsnpvm"
#define COMPLIANT "azure-compliant-cvm" /* -uvm: of containers, whose owner makes the data */
#define SNP "x-ms-sevsnpvm-"

#define MALFORMED "attestation_malformed"
#define UNTRUSTED "attestation_maa_untrusted"
#define BAD_SIGNATURE "attestation_maa_bad_signature"
#define EXPIRED "attestation_maa_expired"
#define UNBOUND "attestation_maa_unbound"
#define POLICY "attestation_maa_policy"

static const char *maa_refuse(char *detail, const char *reason, const char *text)
{
    snprintf(detail, CP_ATTEST_DETAIL_MAX, "%s", text);
    return reason;
}

/* "" where it is none: that is nobody's. */
static const char *maa_text(const cJSON *claims, const char *name)
{
    const char *s = cJSON_GetStringValue(tb_json_member(claims, name));

    return s ? s : "";
}

const char *cp_maa_open(const char *token, const char *issuer, uint64_t now_s, struct cp_jwt *ret,
                        char detail[static CP_ATTEST_DETAIL_MAX])
{
    char why[CP_JWT_ERR_MAX];
    uint64_t end_us;
    int r = cp_jwt_parse(token, ret, why);

    if (r < 0)
        return maa_refuse(detail, MALFORMED,
                          "\"maa\" is no token (JWT) that is signed by RS256 and names its key");
    if (ret->alg != CP_JWT_RS256)
        return maa_refuse(detail, UNTRUSTED, "the token is not signed by RS256");
    if (strcmp(maa_text(ret->claims, "iss"), issuer) != 0) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX, "the token is not of %.150s, which the contract names",
                 issuer);
        return UNTRUSTED;
    }
    r = cp_jwt_check_times(ret, now_s * TB_USEC_PER_SEC, &end_us, why);
    if (r == -EKEYEXPIRED)
        return maa_refuse(detail, EXPIRED, "the token has ended; the machine gets another for each request");
    return r < 0 ? maa_refuse(detail, EXPIRED,
                              "the token has no end, or begins in the future: a clock is wrong")
                 : NULL;
}

/* The nonce of the request that it was made for, as hex. Azure's guest attestation keeps it elsewhere, in
 * base64. */
static bool maa_has_nonce(const cJSON *claims, const cJSON *tee, const uint8_t *extra)
{
    char want[2 * TB_TPM_DIGEST_BYTES + 1], has[TB_BASE64_CHARS(sizeof(want)) + 4];
    const char *s = maa_text(claims, "nonce");
    ssize_t n;

    tb_hex_encode(extra, TB_TPM_DIGEST_BYTES, want);
    if (tee == claims)
        return strcmp(s, want) == 0;
    s = maa_text(tb_json_member(tb_json_member(claims, "x-ms-runtime"), "client-payload"), "nonce");
    n = strlen(s) == TB_BASE64_CHARS(sizeof(want) - 1) ? tb_base64_decode(s, strlen(s), (uint8_t *)has)
                                                       : -EINVAL;
    return n == (ssize_t)sizeof(want) - 1 && memcmp(has, want, sizeof(want) - 1) == 0;
}

/* A member that is missing is never the good value. */
static bool maa_is(const cJSON *tee, const char *name, bool value)
{
    const cJSON *m = tb_json_member(tee, name);

    return cJSON_IsBool(m) && cJSON_IsTrue(m) == value;
}

static uint8_t maa_version(const cJSON *tee, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v;

    return tb_json_get_uint(tee, name, UINT8_MAX, &v, err) == 0 ? (uint8_t)v : 0;
}

/* What is said of the report, as the report would have it: the terms are the same on both ways. */
static const char *maa_check_terms(const cJSON *tee, const struct cp_snp_terms *terms, char *detail)
{
    uint8_t id_key[CP_SNP_DIGEST_BYTES] = {0};
    const char *hex = maa_text(tee, SNP "idkeydigest");
    char err[TB_JSON_ERR_MAX];
    uint64_t vmpl;
    struct cp_snp_report r = {
        .id_key_digest = id_key,
        .policy = (maa_is(tee, SNP "is-debuggable", false) ? 0 : CP_SNP_POLICY_DEBUG) |
                  (maa_is(tee, SNP "migration-allowed", false) ? 0 : CP_SNP_POLICY_MIGRATE),
        .tcb = {maa_version(tee, SNP "bootloader-svn"), maa_version(tee, SNP "tee-svn"),
                maa_version(tee, SNP "snpfw-svn"), maa_version(tee, SNP "microcode-svn")},
    };

    if (tb_json_get_uint(tee, SNP "vmpl", UINT32_MAX, &vmpl, err) < 0)
        return maa_refuse(detail, POLICY,
                          "the token does not say which privilege level (VMPL) the report is of");
    r.vmpl = (uint32_t)vmpl;
    if (tb_hex_decode(hex, strlen(hex), id_key, sizeof(id_key)) < 0)
        memset(id_key, 0, sizeof(id_key));
    return cp_snp_check_terms(&r, terms, detail);
}

const char *cp_maa_check_claims(const cJSON *claims, EVP_PKEY *ak,
                                const uint8_t extra[static TB_TPM_DIGEST_BYTES],
                                const struct cp_snp_terms *terms, char detail[static CP_ATTEST_DETAIL_MAX])
{
    const cJSON *inner = tb_json_member(claims, "x-ms-isolation-tee"), *tee = inner ? inner : claims;
    const char *status = maa_text(tee, "x-ms-compliance-status"), *why;

    if (!maa_has_nonce(claims, tee, extra))
        return maa_refuse(detail, UNBOUND,
                          "the token is for another challenge, contract, asset or machine (nonce)");
    why = cp_snp_names_ak(tb_json_member(tee, "x-ms-runtime"), ak);
    if (why)
        return maa_refuse(detail, UNBOUND, why);
    if (strcmp(maa_text(tee, "x-ms-attestation-type"), TYPE) != 0)
        return maa_refuse(detail, POLICY,
                          "the token is not of a machine with SEV-SNP (x-ms-attestation-type)");
    if (strcmp(status, COMPLIANT) != 0) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX, "the token does not say " COMPLIANT ", but \"%.60s\"", status);
        tb_text_plain(detail);
        return POLICY;
    }
    return maa_check_terms(tee, terms, detail);
}

const char *cp_maa_judge(const char *token, const struct cp_maa_rules *rules, EVP_PKEY *ak,
                         const uint8_t extra[static TB_TPM_DIGEST_BYTES], const struct cp_snp_terms *terms,
                         uint64_t now_s, char detail[static CP_ATTEST_DETAIL_MAX])
{
    _cleanup_jwt_ struct cp_jwt t = {0};
    const char *reason = cp_maa_open(token, rules->issuer, now_s, &t, detail);

    if (reason)
        return reason;
    if (!rules->key)
        return maa_refuse(detail, UNTRUSTED, "the issuer has no key of the name that the token has (kid)");
    if (cp_jwt_verify(&t, token, rules->key) < 0)
        return maa_refuse(detail, BAD_SIGNATURE, "the issuer did not sign this token");
    return cp_maa_check_claims(t.claims, ak, extra, terms, detail);
}
