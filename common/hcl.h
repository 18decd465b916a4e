/* SPDX-License-Identifier: Apache-2.0 */
/* What the firmware of a confidential VM of Azure (HCL, the paravisor) leaves in the vTPM: a header, AMD's
 * report, and the firmware's claims as JSON, whose SHA-256 the report holds. (buf, len), no I/O. */
#ifndef TB_HCL_H
#define TB_HCL_H

#include "common/tpm_wire.h"

#define TB_HCL_SNP_BYTES 1184
#define TB_HCL_CLAIMS_MAX 4096

struct tb_hcl {
    struct tb_tpm_span snp, claims; /* they point into buf */
};

/* 0; -EBADMSG: it is none, or one of another kind of machine (TDX, Trusted Launch under that firmware).
 * Nothing of it may be believed yet. */
int tb_hcl_parse(const uint8_t *buf, size_t len, struct tb_hcl *ret);

#endif
