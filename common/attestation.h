/* SPDX-License-Identifier: Apache-2.0 */
/* How this machine's attestation is, for who shows it: what it showed last, and what a refusal was about. No
 * I/O. docs/attestation.md. */
#ifndef TB_ATTESTATION_H
#define TB_ATTESTATION_H

#include "common/service_state.h"

#define TB_ATTESTATION_TEXT_MAX 256

/* What to do about a reason, where it is one of attestation: the control plane's code, or what the machine
 * itself lacks. NULL: it is another. A constant. */
const char *tb_attestation_remedy(const char *reason);
/* Why it was refused or cannot be made now; NULL: it was not. Of the facts. */
const char *tb_attestation_refusal(const struct tb_facts *f);
/* The level: "none" where the control plane asks for nothing; "" where it has not said yet. */
const char *tb_attestation_level(const struct tb_facts *f);
/* "acme-llm 1.3.0"; "" where there is none. Returns out. */
const char *tb_attestation_image(const struct tb_facts *f, char out[static TB_ATTESTATION_TEXT_MAX]);

/* As member "attestation": level, image, version, at, refused, remedy, where they are known. 0 or -ENOMEM. */
struct cJSON;
int tb_attestation_add(struct cJSON *doc, const struct tb_facts *f);

#endif
