/* SPDX-License-Identifier: Apache-2.0 */
/* A token of Microsoft Azure Attestation: Microsoft's word that a report of SEV-SNP is one of Azure's
 * confidential VMs, in the place of a look at the report itself. Its claims, as /attest/SevSnpVm gives
 * them, or within x-ms-isolation-tee, as the guest attestation of Azure does. No I/O. docs/attestation.md. */
#ifndef CP_MAA_H
#define CP_MAA_H

#include "common/tpm.h"
#include "controlplane/access/jwt.h"
#include "controlplane/attest/snp.h"

/* There is no token: of a machine that was not asked for one, or cannot get one. Comes with a challenge. */
#define CP_MAA_REQUIRED "attestation_maa_required"

struct cp_maa_rules {
    const char *issuer;       /* of the contract: the URL of the instance */
    const struct cp_jwk *key; /* of the name that the token has; NULL: the issuer has none */
};

/* RS256, this issuer, and a time that is now: what is looked at before anybody asks for keys. NULL; or the
 * reason, and what about it. *ret: to be cleared in every case. */
const char *cp_maa_open(const char *token, const char *issuer, uint64_t now_s, struct cp_jwt *ret,
                        char detail[static CP_ATTEST_DETAIL_MAX]);

/* NULL: the token is of the issuer, made for what the machine's TPM signed (extra), says that `ak` is the
 * key of a TPM in a confidential VM of Azure, and that this is one as the terms want it. Else the reason. */
const char *cp_maa_judge(const char *token, const struct cp_maa_rules *rules, EVP_PKEY *ak,
                         const uint8_t extra[static TB_TPM_DIGEST_BYTES], const struct cp_snp_terms *terms,
                         uint64_t now_s, char detail[static CP_ATTEST_DETAIL_MAX]);
/* The last of it: what a token says that the issuer did sign. */
const char *cp_maa_check_claims(const cJSON *claims, EVP_PKEY *ak,
                                const uint8_t extra[static TB_TPM_DIGEST_BYTES],
                                const struct cp_snp_terms *terms, char detail[static CP_ATTEST_DETAIL_MAX]);

#endif
