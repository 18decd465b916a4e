/* SPDX-License-Identifier: Apache-2.0 */
/* The commands of a TPM 2.0 that attestation needs, to the resource manager of the kernel (/dev/tpmrm0) or to
 * the socket of a software TPM. TCG TPM 2.0 Library, parts 2 and 3; no TPM library. */
#ifndef TB_TPM_H
#define TB_TPM_H

#include <stddef.h>
#include <stdint.h>

#include "common/hpke.h"
#include "common/macros.h"
#include "common/tpm_wire.h"

#define TB_TPM_DEVICE "/dev/tpmrm0"
#define TB_TPM_AK_HANDLE 0x81000003U  /* where Azure's machines have their attestation key */
#define TB_TPM_AK_CERT_NV 0x01C101D0U /* and its certificate, DER */
#define TB_TPM_SNP_NV 0x01400001U /* the SEV-SNP report of a confidential VM, as Azure's firmware keeps it */
#define TB_TPM_PCRS 24
#define TB_TPM_DIGEST_BYTES 32 /* SHA-256, the one bank that is used */
#define TB_TPM_PART_MAX 2048
#define TB_TPM_CERT_MAX 4096
#define TB_TPM_ERR_MAX 160

/* A structure of the TPM's, as it gave it. */
struct tb_tpm_part {
    size_t n;
    uint8_t b[TB_TPM_PART_MAX];
};

struct tb_tpm_pcrs {
    uint8_t v[TB_TPM_PCRS][TB_TPM_DIGEST_BYTES];
};

struct tb_tpm {
    int fd;
    uint32_t response; /* of the last command that failed: its response code; 0 without */
    char err[TB_TPM_ERR_MAX];
};

/* 0 or a negative errno, and a sentence in t->err: -ENOENT no such device, -EBUSY the TPM has no time (tried
 * again for a while), -EPROTO it refused (t->response), -EBADMSG its answer is malformed, -ENOKEY (of a read)
 * no such object. */
int tb_tpm_open(const char *path, struct tb_tpm *ret);
void tb_tpm_close(struct tb_tpm *t);
#define _cleanup_tpm_ _cleanup_(tb_tpm_close)

/* TPMT_PUBLIC of the key at handle. */
int tb_tpm_read_public(struct tb_tpm *t, uint32_t handle, struct tb_tpm_part *ret);
/* All of an NV index that the owner's empty password reads. */
int tb_tpm_read_nv(struct tb_tpm *t, uint32_t index, uint8_t *out, size_t max, size_t *ret_len);
/* mask: bit n for PCR n, of the SHA-256 bank. Others are left as they are. */
int tb_tpm_read_pcrs(struct tb_tpm *t, uint32_t mask, struct tb_tpm_pcrs *ret);
/* TPMS_ATTEST and TPMT_SIGNATURE of ak over the PCRs of mask. */
int tb_tpm_quote(struct tb_tpm *t, uint32_t ak, uint32_t mask,
                 const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                 struct tb_tpm_part *ret_signature);
/* The key of this boot: a P-256 primary of the null hierarchy, whose seed is new at each reset; usable only
 * while the PCRs of mask are what they are. The same key again for the same mask and values. ret_public:
 * TPMT_PUBLIC. The handle is flushed by tb_tpm_flush(). */
int tb_tpm_boot_key(struct tb_tpm *t, uint32_t mask, uint32_t *ret_handle, struct tb_tpm_part *ret_public);
/* TPMS_ATTEST and TPMT_SIGNATURE of ak: that object is a key of this TPM. */
int tb_tpm_certify(struct tb_tpm *t, uint32_t object, uint32_t ak,
                   const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                   struct tb_tpm_part *ret_signature);
/* x coordinate of key * point, key being one of tb_tpm_boot_key() of this mask. -EPERM: the PCRs are not what
 * they were. */
int tb_tpm_ecdh(struct tb_tpm *t, uint32_t key, uint32_t mask,
                const uint8_t point[static TB_P256_POINT_BYTES],
                uint8_t ret_z[static TB_P256_COORDINATE_BYTES]);
/* A primary of that hierarchy: the same key again for the same template and seed. what: for people. */
int tb_tpm_primary(struct tb_tpm *t, const char *what, uint32_t hierarchy,
                   const struct tb_tpm_writer *template, uint32_t *ret_handle,
                   struct tb_tpm_part *ret_public);
/* A session of a policy that has the registers of mask as they are. */
int tb_tpm_policy_session(struct tb_tpm *t, uint32_t mask, uint32_t *ret);
void tb_tpm_flush(struct tb_tpm *t, uint32_t handle);

#endif
