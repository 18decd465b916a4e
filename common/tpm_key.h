/* SPDX-License-Identifier: Apache-2.0 */
/* The boot key as whoever makes it, uses it and judges it sees it: one template, of which only the policy and
 * the point differ. */
#ifndef TB_TPM_KEY_H
#define TB_TPM_KEY_H

#include <stddef.h>
#include <stdint.h>

#include "common/tpm.h"
#include "common/tpm_wire.h"

/* PCRs 16 and 23 can be reset by anybody, 17 to 22 by a launch: none of them can be told. */
#define TB_TPM_PCRS_ALLOWED 0xffffU

#define TB_TPM_ALG_RSA 0x0001
#define TB_TPM_ALG_SHA256 0x000B
#define TB_TPM_ALG_NULL 0x0010
#define TB_TPM_ALG_RSASSA 0x0014
#define TB_TPM_ALG_ECC 0x0023
#define TB_TPM_ECC_P256 0x0003

/* TPMA_OBJECT */
#define TB_TPM_FIXED_TPM (1U << 1)
#define TB_TPM_ST_CLEAR (1U << 2)
#define TB_TPM_FIXED_PARENT (1U << 4)
#define TB_TPM_SENSITIVE_ORIGIN (1U << 5)
#define TB_TPM_NO_DA (1U << 10)
#define TB_TPM_RESTRICTED (1U << 16)
#define TB_TPM_DECRYPT (1U << 17)
#define TB_TPM_SIGN (1U << 18)

/* TPML_PCR_SELECTION of the SHA-256 bank. */
void tb_tpm_put_selection(struct tb_tpm_writer *w, uint32_t mask);
/* The mask; 0 when it is another bank, or several. */
uint32_t tb_tpm_take_selection(struct tb_tpm_reader *r);

/* SHA-256 over the PCRs of mask, in order. */
void tb_tpm_pcrs_digest(uint32_t mask, const struct tb_tpm_pcrs *pcrs,
                        uint8_t ret[static TB_TPM_DIGEST_BYTES]);
/* authPolicy of a key that TPM2_PolicyPCR of these values opens. */
void tb_tpm_pcrs_policy(uint32_t mask, const struct tb_tpm_pcrs *pcrs,
                        uint8_t ret[static TB_TPM_DIGEST_BYTES]);

/* TPMT_PUBLIC of the template, without its point. */
void tb_tpm_key_template(struct tb_tpm_writer *w, const uint8_t policy[static TB_TPM_DIGEST_BYTES]);
/* 0 and the point when it is the template with this policy; -EINVAL when it is something else; -EPERM when
 * only the policy differs. That the point lies on the curve is not looked at. */
int tb_tpm_key_read(struct tb_tpm_span public_area, const uint8_t policy[static TB_TPM_DIGEST_BYTES],
                    uint8_t ret_point[static TB_P256_POINT_BYTES]);

#endif
