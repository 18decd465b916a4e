/* SPDX-License-Identifier: Apache-2.0 */
/* The report of tb-verify on this machine, for the control plane: with the next evidence, until it was
 * answered. */
#ifndef TB_AUTHORIZE_PROOF_H
#define TB_AUTHORIZE_PROOF_H

#include "common/attest.h"
#include "common/config.h"

struct authorize_proof {
    uint8_t told[TB_TPM_DIGEST_BYTES]; /* SHA-256 of the one that was answered */
    uint8_t sent[TB_TPM_DIGEST_BYTES]; /* of the one on its way */
    bool is_on_way;
    bool was_told;
};

/* The report that the control plane does not know yet: heap; NULL: there is none. To be read before the
 * evidence is made, which says which boot it is, and when. */
char *authorize_proof_next(const struct tb_config *cfg, struct authorize_proof *p);
/* The request was answered with a grant; said: what became of the report, "": nothing was said, by a
 * control plane that knows none. */
void authorize_proof_answered(struct authorize_proof *p, const char *said);

#endif
