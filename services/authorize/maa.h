/* SPDX-License-Identifier: Apache-2.0 */
/* A token of Microsoft Azure Attestation for the evidence of a confidential VM: its instance is shown the
 * report, and says in a signed token what it makes of it. Here, as tb-attest has no network.
 * docs/attestation.md. */
#ifndef TB_AUTHORIZE_MAA_H
#define TB_AUTHORIZE_MAA_H

#include "authorize/attest.h"

/* The question for POST URL/attest/SevSnpVm: heap, NULL on ENOMEM or when the report is none. chain: PEM.
 * No I/O. */
char *authorize_maa_question(const uint8_t *snp, size_t snp_len, const char *chain,
                             const uint8_t nonce[static TB_TPM_DIGEST_BYTES]);
/* The token of its answer, heap; -EBADMSG, -ENOMEM. (buf, len), no I/O. */
int authorize_maa_answer(const char *buf, size_t len, char **ret);

/* Asks, and puts the token into the evidence, which is replaced. Evidence without a report stays as it is:
 * the control plane says what that machine lacks. A negative errno and a sentence. */
int authorize_maa_add(const struct tb_config *cfg, const char *url,
                      const uint8_t nonce[static TB_TPM_DIGEST_BYTES], char **evidence,
                      char err[static AUTHORIZE_ATTEST_ERR_MAX]);

#endif
