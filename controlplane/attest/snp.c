/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/snp.h"

#include <errno.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#include "common/hcl.h"
#include "common/hex.h"
#include "common/json.h"
#include "common/macros.h"
#include "common/secret.h"
#include "common/tpm.h"
#include "controlplane/access/jwt.h"

#define HCL_AK_NAME "HCLAkPub"

/* ATTESTATION_REPORT */
#define VERSION_AT 0x00
#define POLICY_AT 0x08
#define VMPL_AT 0x30
#define ALGORITHM_AT 0x34
#define FLAGS_AT 0x48
#define DATA_AT 0x50
#define ID_KEY_DIGEST_AT 0xE0
#define TCB_AT 0x180
#define CHIP_AT 0x1A0
#define SIGNATURE_AT 0x2A0
#define NUMBER_BYTES 72 /* of r and of s, little-endian */
#define P384_BYTES 48
#define VERSION_MIN 2
#define VERSION_MAX 5
#define ALGORITHM_P384_SHA384 1
#define FLAG_MASK_CHIP (1U << 1)
#define FLAGS_SIGNING_KEY (7U << 2) /* 0: VCEK */

/* Extensions of a VCEK (AMD 57230) */
#define OID_SPL "1.3.6.1.4.1.3704.1.3."
#define OID_CHIP "1.3.6.1.4.1.3704.1.4"

#define BAD_SIGNATURE "attestation_snp_bad_signature"
#define UNBOUND "attestation_snp_unbound"
#define OTHER_CHIP "attestation_snp_other_chip"
#define POLICY "attestation_snp_policy"
#define OLD_TCB "attestation_snp_old_tcb"

static uint64_t get_le(const uint8_t *p, size_t n)
{
    uint64_t v = 0;

    for (size_t i = n; i > 0; i--)
        v = v << 8 | p[i - 1];
    return v;
}

static void report_read(const uint8_t *p, struct cp_snp_report *r)
{
    *r = (struct cp_snp_report){
        .raw = p,
        .version = (uint32_t)get_le(p + VERSION_AT, 4),
        .vmpl = (uint32_t)get_le(p + VMPL_AT, 4),
        .algorithm = (uint32_t)get_le(p + ALGORITHM_AT, 4),
        .flags = (uint32_t)get_le(p + FLAGS_AT, 4),
        .policy = get_le(p + POLICY_AT, 8),
        .tcb = {p[TCB_AT], p[TCB_AT + 1], p[TCB_AT + 6], p[TCB_AT + 7]},
        .data = p + DATA_AT,
        .chip = p + CHIP_AT,
        .id_key_digest = p + ID_KEY_DIGEST_AT,
    };
}

int cp_hcl_parse(const uint8_t *buf, size_t len, struct cp_hcl *ret)
{
    struct tb_hcl h;
    int r = tb_hcl_parse(buf, len, &h);

    if (r < 0)
        return r;
    ret->claims = h.claims;
    report_read(h.snp.p, &ret->report);
    if (ret->report.version < VERSION_MIN || ret->report.version > VERSION_MAX ||
        ret->report.algorithm != ALGORITHM_P384_SHA384)
        return -EBADMSG;
    return 0;
}

int cp_snp_tcb_read(const char *text, struct cp_snp_tcb *ret)
{
    unsigned v[4];
    int end = 0;

    if (strspn(text, "0123456789.") != strlen(text) ||
        sscanf(text, "%3u.%3u.%3u.%3u%n", &v[0], &v[1], &v[2], &v[3], &end) != 4 || text[end])
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(v); i++)
        if (v[i] > UINT8_MAX)
            return -EINVAL;
    *ret = (struct cp_snp_tcb){(uint8_t)v[0], (uint8_t)v[1], (uint8_t)v[2], (uint8_t)v[3]};
    return 0;
}

static const char *snp_refuse(char *detail, const char *reason, const char *text)
{
    snprintf(detail, CP_ATTEST_DETAIL_MAX, "%s", text);
    return reason;
}

/* -- the signature ------------------------------------------------------------------------------- */
static void report_signature_freep(ECDSA_SIG **s)
{
    ECDSA_SIG_free(*s);
}

/* r and s are little-endian, OpenSSL wants DER. Bytes; 0: it is none. */
static size_t report_signature_der(const uint8_t *p, uint8_t out[static 2 * NUMBER_BYTES])
{
    _cleanup_(report_signature_freep) ECDSA_SIG *s = ECDSA_SIG_new();
    BIGNUM *r_number = BN_lebin2bn(p, NUMBER_BYTES, NULL),
           *s_number = BN_lebin2bn(p + NUMBER_BYTES, NUMBER_BYTES, NULL);
    int n;

    if (!s || !r_number || !s_number || BN_num_bytes(r_number) > P384_BYTES ||
        BN_num_bytes(s_number) > P384_BYTES || ECDSA_SIG_set0(s, r_number, s_number) != 1) {
        BN_free(r_number);
        BN_free(s_number);
        return 0;
    }
    n = i2d_ECDSA_SIG(s, &out);
    return n > 0 ? (size_t)n : 0;
}

static bool report_is_signed(const struct cp_snp_report *r, X509 *vcek)
{
    uint8_t der[2 * NUMBER_BYTES];
    size_t n = report_signature_der(r->raw + SIGNATURE_AT, der);
    EVP_PKEY *key = X509_get0_pubkey(vcek);
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    char group[32] = "";
    bool ok =
        n > 0 && c && key &&
        EVP_PKEY_get_utf8_string_param(key, OSSL_PKEY_PARAM_GROUP_NAME, group, sizeof(group), NULL) == 1 &&
        strcmp(group, "secp384r1") == 0 && EVP_DigestVerifyInit(c, NULL, EVP_sha384(), NULL, key) == 1 &&
        EVP_DigestVerify(c, der, n, r->raw, SIGNATURE_AT) == 1;

    EVP_MD_CTX_free(c);
    ERR_clear_error();
    return ok;
}

/* -- the certificate's chip and versions --------------------------------------------------------- */
static struct tb_tpm_span vcek_extension(X509 *x, const char *oid)
{
    ASN1_OBJECT *o = OBJ_txt2obj(oid, 1);
    int at = o ? X509_get_ext_by_OBJ(x, o, -1) : -1;
    ASN1_OCTET_STRING *s = at < 0 ? NULL : X509_EXTENSION_get_data(X509_get_ext(x, at));

    ASN1_OBJECT_free(o);
    if (!s)
        return (struct tb_tpm_span){0};
    return (struct tb_tpm_span){.p = ASN1_STRING_get0_data(s), .n = (size_t)ASN1_STRING_length(s)};
}

/* An INTEGER of one byte. */
static bool vcek_has_version(X509 *x, unsigned number, uint8_t want)
{
    char oid[sizeof(OID_SPL) + 4];
    struct tb_tpm_span s;

    snprintf(oid, sizeof(oid), "%s%u", OID_SPL, number);
    s = vcek_extension(x, oid);
    if (s.n == 3)
        return s.p[0] == 0x02 && s.p[1] == 1 && s.p[2] < 0x80 && s.p[2] == want;
    return s.n == 4 && s.p[0] == 0x02 && s.p[1] == 2 && s.p[2] == 0 && s.p[3] >= 0x80 && s.p[3] == want;
}

/* The key is derived of chip and versions: one for another chip or other versions would have signed another
 * report. */
static const char *check_chip(const struct cp_snp_report *r, X509 *vcek, char *detail)
{
    struct tb_tpm_span chip = vcek_extension(vcek, OID_CHIP);

    if ((r->flags & (FLAG_MASK_CHIP | FLAGS_SIGNING_KEY)) || chip.n != CP_SNP_CHIP_BYTES ||
        memcmp(chip.p, r->chip, CP_SNP_CHIP_BYTES) != 0)
        return snp_refuse(detail, OTHER_CHIP,
                          "the certificate (VCEK) is of another processor than the report");
    if (!vcek_has_version(vcek, 1, r->tcb.bootloader) || !vcek_has_version(vcek, 2, r->tcb.tee) ||
        !vcek_has_version(vcek, 3, r->tcb.snp) || !vcek_has_version(vcek, 8, r->tcb.microcode))
        return snp_refuse(
            detail, OTHER_CHIP,
            "the certificate (VCEK) is for other firmware versions than the report; reboot the machine");
    return NULL;
}

/* -- what runs below the guest ------------------------------------------------------------------- */
static bool tcb_suffices(const struct cp_snp_tcb *has, const struct cp_snp_tcb *min)
{
    return has->bootloader >= min->bootloader && has->tee >= min->tee && has->snp >= min->snp &&
           has->microcode >= min->microcode;
}

static bool id_key_is_good(const struct cp_snp_report *r, const struct cp_snp_terms *t)
{
    char hex[CP_SNP_DIGEST_HEX + 1];

    tb_hex_encode(r->id_key_digest, CP_SNP_DIGEST_BYTES, hex);
    for (size_t i = 0; i < t->n_id_keys; i++)
        if (strcmp(hex, t->id_keys[i]) == 0)
            return true;
    return t->n_id_keys == 0;
}

const char *cp_snp_check_terms(const struct cp_snp_report *r, const struct cp_snp_terms *t,
                               char detail[static CP_ATTEST_DETAIL_MAX])
{
    if (r->policy & CP_SNP_POLICY_DEBUG)
        return snp_refuse(detail, POLICY, "the host may debug this machine: it reads its memory");
    if (r->policy & CP_SNP_POLICY_MIGRATE)
        return snp_refuse(detail, POLICY, "a migration agent may move this machine out of encrypted memory");
    if (r->vmpl != 0) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX,
                 "the report is of privilege level (VMPL) %u, not of the firmware's, 0", r->vmpl);
        return POLICY;
    }
    if (!id_key_is_good(r, t)) {
        char hex[CP_SNP_DIGEST_HEX + 1];

        tb_hex_encode(r->id_key_digest, CP_SNP_DIGEST_BYTES, hex);
        snprintf(detail, CP_ATTEST_DETAIL_MAX,
                 "the firmware is signed by %s, which the contract does not name", hex);
        return POLICY;
    }
    if (!tcb_suffices(&r->tcb, &t->min_tcb)) {
        snprintf(detail, CP_ATTEST_DETAIL_MAX,
                 "the processor's firmware is %u.%u.%u.%u, the contract wants at least %u.%u.%u.%u",
                 r->tcb.bootloader, r->tcb.tee, r->tcb.snp, r->tcb.microcode, t->min_tcb.bootloader,
                 t->min_tcb.tee, t->min_tcb.snp, t->min_tcb.microcode);
        return OLD_TCB;
    }
    return NULL;
}

/* -- the firmware's claims ----------------------------------------------------------------------- */
static const cJSON *claims_key(const cJSON *claims)
{
    const cJSON *m, *found = NULL;

    cJSON_ArrayForEach (m, tb_json_member(claims, "keys")) {
        const cJSON *kid = tb_json_member(m, "kid");

        if (!cJSON_IsString(kid) || strcmp(kid->valuestring, HCL_AK_NAME) != 0)
            continue;
        if (found)
            return NULL; /* two: which is meant? */
        found = m;
    }
    return found;
}

static bool number_is(const cJSON *jwk, const char *name, EVP_PKEY *ak, const char *param)
{
    const cJSON *m = tb_json_member(jwk, name);
    uint8_t b[CP_SIGNATURE_MAX];
    BIGNUM *has = NULL, *want = NULL;
    size_t n;
    bool same;

    if (!cJSON_IsString(m) ||
        cp_base64url_decode(m->valuestring, strlen(m->valuestring), b, sizeof(b), &n) < 0)
        return false;
    has = BN_bin2bn(b, (int)n, NULL);
    same = has && EVP_PKEY_get_bn_param(ak, param, &want) == 1 && BN_cmp(has, want) == 0;
    BN_free(has);
    BN_free(want);
    return same;
}

const char *cp_snp_names_ak(const cJSON *claims, EVP_PKEY *ak)
{
    const cJSON *jwk = claims_key(claims);

    if (!jwk)
        return "the firmware names no attestation key of its TPM";
    return number_is(jwk, "n", ak, OSSL_PKEY_PARAM_RSA_N) && number_is(jwk, "e", ak, OSSL_PKEY_PARAM_RSA_E)
               ? NULL
               : "the report is of another machine: its TPM has another key";
}

static const char *check_claims(const struct cp_hcl *h, EVP_PKEY *ak, char *detail)
{
    static const uint8_t zeros[CP_SNP_DATA_BYTES - TB_TPM_DIGEST_BYTES];
    _cleanup_json_ cJSON *claims = NULL;
    char why[TB_JSON_ERR_MAX];
    uint8_t digest[TB_TPM_DIGEST_BYTES];
    const char *why_not;

    if (EVP_Digest(h->claims.p, h->claims.n, digest, NULL, EVP_sha256(), NULL) != 1 ||
        !tb_mem_equal(h->report.data, digest, sizeof(digest)) ||
        memcmp(h->report.data + sizeof(digest), zeros, sizeof(zeros)) != 0)
        return snp_refuse(detail, UNBOUND, "the firmware's claims are not those that the report is for");
    if (tb_json_parse((const char *)h->claims.p, h->claims.n, TB_HCL_CLAIMS_MAX, &claims, why) < 0)
        return snp_refuse(detail, UNBOUND, "the firmware names no attestation key of its TPM");
    why_not = cp_snp_names_ak(claims, ak);
    return why_not ? snp_refuse(detail, UNBOUND, why_not) : NULL;
}

const char *cp_snp_judge(const struct cp_hcl *h, X509 *vcek, EVP_PKEY *ak, const struct cp_snp_terms *terms,
                         char detail[static CP_ATTEST_DETAIL_MAX])
{
    const char *reason = report_is_signed(&h->report, vcek)
                             ? NULL
                             : snp_refuse(detail, BAD_SIGNATURE, "the processor did not sign this report");

    if (!reason)
        reason = check_chip(&h->report, vcek, detail);
    if (!reason)
        reason = check_claims(h, ak, detail);
    ERR_clear_error();
    return reason ? reason : cp_snp_check_terms(&h->report, terms, detail);
}
