/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine, its TPM and the control plane agree on when a key is bound to a boot: docs/attestation.md.
 * tb-attest makes evidence, the control plane judges it and seals, tb-decrypt opens. */
#ifndef TB_ATTEST_H
#define TB_ATTEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/hpke.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/tpm.h"

#define TB_CHALLENGE_BYTES 32
#define TB_CHALLENGE_HEX_CHARS 64
#define TB_EVIDENCE_MAX (16 * 1024) /* bytes of the JSON */
/* All that a boot leaves: for diagnosis, and so that a quote of others cannot stand in for them. */
#define TB_ATTEST_QUOTED 0xffffU
/* Where tb-vcek leaves the processor's certificate (DER), in the run directory. */
#define TB_VCEK_DIR "tb-vcek"
#define TB_VCEK_FILE "vcek.der"
/* And with its chain, PEM, which Azure Attestation wants to see. */
#define TB_VCEK_CHAIN "chain.pem"
#define TB_VCEK_CHAIN_MAX 32768
#define TB_SNP_REPORT_MAX 4096 /* bytes; Azure's NV index has 2600 */
#define TB_ATTEST_ALG "hpke-p256-sha256-aes256gcm"

struct tb_attest_subject {
    const char *contract_id, *asset_id, *hw_id;
};

/* What quote and certificate are made over: SHA-256 of a label, the challenge and the three names, each with
 * its length in front. -EINVAL: one is too long; -EIO. */
int tb_attest_extra(const uint8_t challenge[static TB_CHALLENGE_BYTES], const struct tb_attest_subject *s,
                    uint8_t ret[static TB_TPM_DIGEST_BYTES]);

/* Of tb-verify: where it leaves what it saw, in the run directory, and what the TPM signs of it: SHA-256
 * of a label and the report. -EIO. */
#define TB_VERIFY_DIR "tb-verify"
#define TB_VERIFY_FILE "report.json"
#define TB_MACHINE_REPORT_MAX (12 * 1024) /* bytes, with its signature */
int tb_machine_report_digest(const char *report, uint8_t ret[static TB_TPM_DIGEST_BYTES]);

/* What the key is sealed for (info of HPKE): a contract, an asset, and its manifest, whose SHA-256 is in hex,
 * or "none". -EINVAL. */
int tb_attest_info(const char *contract_id, const char *asset_id, const char *manifest_sha256,
                   uint8_t ret[static TB_HPKE_INFO_MAX], size_t *ret_len);

/* The member "pcrs": the values of PCR 0 to 15 in hex, by their numbers. -ENOMEM. -EINVAL and why. */
int tb_attest_values_add(cJSON *o, const struct tb_tpm_pcrs *values);
int tb_attest_values_read(const cJSON *o, struct tb_tpm_pcrs *ret, char err[static TB_JSON_ERR_MAX]);

/* The PCRs whose values the boot key needs, as a mask, from their numbers. -EINVAL: none, one that is not
 * below 16, or one twice. */
int tb_attest_pcrs_read(const cJSON *array, uint32_t *ret);

/* A model key as tb-authorize carries it: nobody but the TPM opens it. */
#define TB_SEALED_KEY_BYTES (TB_KEY_BYTES + TB_HPKE_TAG_BYTES)
struct tb_wrapped_key {
    uint32_t pcrs; /* the mask of the boot key */
    uint8_t enc[TB_P256_POINT_BYTES];
    uint8_t ct[TB_SEALED_KEY_BYTES];
};
/* As the credential model-key has it: "TBWK0001", pcrs in big-endian, enc, ct. */
#define TB_WRAPPED_KEY_BYTES (8 + 4 + TB_P256_POINT_BYTES + TB_SEALED_KEY_BYTES)
void tb_wrapped_key_write(const struct tb_wrapped_key *k, uint8_t ret[static TB_WRAPPED_KEY_BYTES]);
/* -EBADMSG */
int tb_wrapped_key_read(const void *buf, size_t len, struct tb_wrapped_key *ret);

#endif
