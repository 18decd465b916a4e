/* SPDX-License-Identifier: Apache-2.0 */
/* What a request says of this machine's TPM: an offer, or the evidence that tb-attest makes for a challenge.
 * docs/attestation.md. */
#ifndef TB_AUTHORIZE_ATTEST_H
#define TB_AUTHORIZE_ATTEST_H

#include <stdint.h>

#include "common/attest.h"
#include "common/config.h"

#define AUTHORIZE_ATTEST_ERR_MAX 400
#define AUTHORIZE_MAA_URL_MAX 200

/* A challenge of the control plane's; hex "": none. */
struct authorize_challenge {
    char hex[TB_CHALLENGE_HEX_CHARS + 1];
    uint32_t pcrs;
    char maa[AUTHORIZE_MAA_URL_MAX]; /* Azure Attestation whose token is wanted too; "": none is */
};

/* Heap, NULL on ENOMEM. */
char *authorize_attest_offer(const struct tb_config *cfg);
/* Asks tb-attest, and Azure Attestation where the control plane wants that. 0 and evidence, heap; a
 * negative errno and a sentence. */
int authorize_attest_evidence(const struct tb_config *cfg, const char *hw_id,
                              const struct authorize_challenge *c, char **ret,
                              char err[static AUTHORIZE_ATTEST_ERR_MAX]);

#endif
