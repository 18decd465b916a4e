/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-verify of a machine saw of its claims, signed by the machine's TPM: tb-verify(8),
 * docs/attestation.md. (buf, len), no I/O. */
#ifndef CP_MACHINE_REPORT_H
#define CP_MACHINE_REPORT_H

#include "common/id.h"
#include "common/json.h"
#include "controlplane/attest/verify.h"

#define CP_CLAIM_NAME_MAX 48
#define CP_BOOT_ID_MAX 40

struct cp_machine_report {
    char contract_id[TB_ID_MAX + 1], boot_id[CP_BOOT_ID_MAX + 1];
    unsigned holds, broken, not_checked;      /* claims */
    char first_broken[CP_CLAIM_NAME_MAX + 1]; /* "": none is */
    uint8_t digest[TB_TPM_DIGEST_BYTES];      /* what the TPM signs */
    struct tb_tpm_part ak, quote, quote_sig;  /* n 0: it is unsigned */
    struct tb_tpm_pcrs pcrs;                  /* that were quoted, it says */
    bool has_pcrs;                            /* one of an older machine says none */
};

/* 0, or -EBADMSG and what is malformed. Nothing of it may be believed yet. */
int cp_machine_report_parse(const char *text, size_t len, struct cp_machine_report *ret,
                            char err[static TB_JSON_ERR_MAX]);

/* NULL: it is of the machine that showed this evidence, of its present boot, and not of the future; when
 * it was signed, by the TPM's clock. Else the reason, and what about it. */
const char *cp_machine_report_judge(const struct cp_machine_report *m, const char *contract_id,
                                    const struct cp_attested *by, struct cp_tpm_clock *ret,
                                    char detail[static CP_ATTEST_DETAIL_MAX]);

#endif
