/* SPDX-License-Identifier: Apache-2.0 */
/* The SEV-SNP report of a confidential VM of Azure, as its firmware (HCL, the paravisor) leaves it in the
 * vTPM: a header, AMD's report (SEV-SNP Firmware ABI, "ATTESTATION_REPORT"), and the firmware's claims as
 * JSON, whose hash the report holds and among which is the vTPM's attestation key. So a quote of that key is
 * one of a TPM within encrypted memory. (buf, len), no I/O. */
#ifndef CP_SNP_H
#define CP_SNP_H

#include <openssl/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"
#include "common/tpm_wire.h"

#define CP_SNP_DATA_BYTES 64
#define CP_SNP_CHIP_BYTES 64
#define CP_SNP_DIGEST_BYTES 48 /* SHA-384 */
#define CP_SNP_DIGEST_HEX 96
#define CP_SNP_ID_KEYS_MAX 8

/* Security version numbers of what runs below the guest; of Milan and Genoa. */
struct cp_snp_tcb {
    uint8_t bootloader, tee, snp, microcode;
};

#define CP_SNP_POLICY_MIGRATE (1ULL << 18) /* bits of the guest policy: a migration agent may move it */
#define CP_SNP_POLICY_DEBUG (1ULL << 19)

struct cp_snp_report {
    const uint8_t *raw; /* TB_HCL_SNP_BYTES */
    uint32_t version, vmpl, algorithm, flags;
    uint64_t policy;
    struct cp_snp_tcb tcb; /* reported: what the signing key is for */
    const uint8_t *data, *chip, *id_key_digest;
};

struct cp_hcl {
    struct cp_snp_report report;
    struct tb_tpm_span claims; /* JSON */
};

/* 0; -EBADMSG. Nothing of it may be believed yet; spans point into buf. */
int cp_hcl_parse(const uint8_t *buf, size_t len, struct cp_hcl *ret);

/* What a contract asks of the machine below the guest. */
struct cp_snp_terms {
    struct cp_snp_tcb min_tcb;
    char id_keys[CP_SNP_ID_KEYS_MAX][CP_SNP_DIGEST_HEX + 1]; /* who may have signed the firmware; n 0: any */
    size_t n_id_keys;
};
/* "BOOTLOADER.TEE.SNP.MICROCODE" -EINVAL */
int cp_snp_tcb_read(const char *text, struct cp_snp_tcb *ret);

#define CP_ATTEST_DETAIL_MAX 240
/* NULL: this report is signed by that certificate's key (VCEK, whose chain was looked at), is of a machine as
 * the terms want it, and its firmware says that `ak` is its TPM's. Else the reason, and what about it. */
const char *cp_snp_judge(const struct cp_hcl *h, X509 *vcek, EVP_PKEY *ak, const struct cp_snp_terms *terms,
                         char detail[static CP_ATTEST_DETAIL_MAX]);

/* The last of it, also for who had the report judged by somebody else: policy, vmpl, id_key_digest and tcb
 * alone are looked at. */
const char *cp_snp_check_terms(const struct cp_snp_report *r, const struct cp_snp_terms *terms,
                               char detail[static CP_ATTEST_DETAIL_MAX]);
/* NULL: what the firmware claims (its JSON) names this attestation key, once. Else why not, a constant. */
const char *cp_snp_names_ak(const cJSON *claims, EVP_PKEY *ak);

#endif
