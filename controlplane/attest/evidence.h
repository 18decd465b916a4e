/* SPDX-License-Identifier: Apache-2.0 */
/* The member `attestation` of a license/authorize body: what a machine offers, or its evidence. Parsing only:
 * (buf, len), nothing of it may be believed yet. docs/attestation.md. */
#ifndef CP_EVIDENCE_H
#define CP_EVIDENCE_H

#include <stdbool.h>

#include "common/attest.h"
#include "common/json.h"
#include "controlplane/access/jwt.h"

#define CP_ATTEST_WHY_MAX 120

struct cp_evidence {
    uint8_t challenge[TB_CHALLENGE_BYTES];
    struct tb_tpm_pcrs pcrs; /* 0 to 15, as it says */
    uint32_t key_pcrs;       /* mask */
    struct tb_tpm_part ak, quote, quote_sig, key, key_certify, key_sig;
    uint8_t ak_cert[TB_TPM_CERT_MAX];
    size_t ak_cert_len; /* 0: none */
    uint8_t snp[TB_SNP_REPORT_MAX], vcek[TB_TPM_CERT_MAX];
    size_t snp_len, vcek_len; /* 0: it is no confidential VM */
    char maa[CP_JWT_MAX + 1]; /* token of Azure Attestation; "": none */
};

enum cp_attest_said {
    CP_SAID_NOTHING,  /* an older client, or nothing that can be read */
    CP_SAID_CANNOT,   /* it has no TPM; why says so */
    CP_SAID_OFFER,    /* it can answer a challenge */
    CP_SAID_EVIDENCE, /* it has */
};

struct cp_attestation {
    enum cp_attest_said offer;
    char why[CP_ATTEST_WHY_MAX + 1]; /* of CP_SAID_CANNOT, printable */
    struct cp_evidence evidence;     /* of CP_SAID_EVIDENCE */
};

/* text "": CP_SAID_NOTHING. 0, or -EBADMSG and what is malformed. */
int cp_attestation_parse(const char *text, size_t len, struct cp_attestation *ret,
                         char err[static TB_JSON_ERR_MAX]);

#endif
