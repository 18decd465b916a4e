/* SPDX-License-Identifier: Apache-2.0 */
/* A model key that is sealed to the TPM and the boot of this machine: docs/attestation.md. */
#ifndef TB_DECRYPT_UNWRAP_H
#define TB_DECRYPT_UNWRAP_H

#include "common/attest.h"
#include "common/config.h"
#include "common/outcome.h"

/* manifest_sha256: the credential, hex or "none", which the key is bound to. 0 or an exit code: 75 it was
 * sealed for an earlier state of this machine, or the TPM is busy; 77 malformed. */
int tb_unwrap_key(const struct tb_config *c, const char *manifest_sha256, const struct tb_wrapped_key *w,
                  struct tb_key *ret, struct tb_outcome *o);

#endif
