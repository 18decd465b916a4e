/* SPDX-License-Identifier: Apache-2.0 */
/* A token of Azure Attestation: as a stranger sends it, which nobody signed; and the claims of one that is signed. The
 * first byte chooses. What is taken says the nonce and Azure's word for a confidential VM. */
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rsa.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/attest/maa.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NOW_S 1767873600U
#define ISSUER "https://i"

static EVP_PKEY *ak;

static void fuzz_token(const char *text)
{
    const struct cp_jwk key = {.alg = CP_JWT_RS256, .key = ak};
    const struct cp_maa_rules rules = {.issuer = ISSUER, .key = &key};
    static const struct cp_snp_terms terms;
    uint8_t extra[TB_TPM_DIGEST_BYTES] = {0};
    char detail[CP_ATTEST_DETAIL_MAX] = "";
    _cleanup_jwt_ struct cp_jwt t = {0};
    const char *reason = cp_maa_open(text, ISSUER, NOW_S, &t, detail);

    if ((reason && !*detail) || (!reason && (t.alg != CP_JWT_RS256 || !*t.kid)))
        abort();
    if (!cp_maa_judge(text, &rules, ak, extra, &terms, NOW_S, detail))
        abort();
}

static void fuzz_claims(const char *text, size_t len)
{
    static const struct cp_snp_terms open, narrow = {.min_tcb = {1, 0, 0, 0}, .n_id_keys = 1};
    uint8_t extra[TB_TPM_DIGEST_BYTES] = {0};
    char detail[CP_ATTEST_DETAIL_MAX] = "", why[TB_JSON_ERR_MAX];
    _cleanup_json_ cJSON *o = NULL;

    if (tb_json_parse(text, len, CP_JWT_MAX, &o, why) < 0)
        return;
    if (!cp_maa_check_claims(o, ak, extra, &open, detail) && !strstr(text, "compliant"))
        abort();
    if (!cp_maa_check_claims(o, ak, extra, &narrow, detail))
        abort(); /* id_keys[0] is "": nobody's */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = size ? malloc(size) : NULL;

    if (!ak)
        ak = EVP_RSA_gen(2048);
    if (!text || !ak) {
        free(text);
        return 0;
    }
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    if (data[0] % 2 == 0)
        fuzz_token(text);
    else
        fuzz_claims(text, size - 1);
    free(text);
    return 0;
}
