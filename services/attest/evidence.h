/* SPDX-License-Identifier: Apache-2.0 */
/* Evidence of this machine and this boot for one challenge: docs/attestation.md has each member. */
#ifndef TB_ATTEST_EVIDENCE_H
#define TB_ATTEST_EVIDENCE_H

#include <stddef.h>

#include "common/attest.h"
#include "common/config.h"

#define TB_ATTEST_REQUEST_MAX 2048
#define TB_ATTEST_ERR_MAX 320

/* What the client of the socket asks, one message of JSON. */
struct attest_request {
    uint8_t challenge[TB_CHALLENGE_BYTES];
    char challenge_hex[TB_CHALLENGE_HEX_CHARS + 1];
    uint32_t pcrs;
    char contract_id[256], asset_id[256], hw_id[256];
};

/* -EBADMSG and a sentence. */
int attest_request_parse(const char *buf, size_t len, struct attest_request *ret,
                         char err[static TB_ATTEST_ERR_MAX]);

/* The evidence as JSON, heap. A negative errno of tpm.h and a sentence with the remedy. */
int attest_evidence(const struct tb_config *c, const struct attest_request *q, char **ret,
                    char err[static TB_ATTEST_ERR_MAX]);

#endif
