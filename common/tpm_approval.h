/* SPDX-License-Identifier: Apache-2.0 */
/* What the maker of images signs so that the next image opens the state that the last one left: the policy of
 * the registers of a boot. A key whose policy is that of the signer (TPM2_PolicyAuthorize) is usable in each
 * boot that he signed for, and in no other. docs/attestation.md, "State". */
#ifndef TB_TPM_APPROVAL_H
#define TB_TPM_APPROVAL_H

#include "common/json.h"
#include "common/tpm.h"
#include "common/tpm_wire.h"

#define TB_APPROVAL_FORMAT "trustbridge-approval/v1"
#define TB_APPROVAL_DOCUMENT_MAX 8192
#define TB_APPROVALS_MAX 8
#define TB_SIGNER_BYTES 256 /* RSA 2048: every TPM verifies it */
#define TB_TPM_NAME_BYTES (2 + TB_TPM_DIGEST_BYTES)

/* The key that signs: RSA 2048, exponent 65537. */
struct tb_tpm_signer {
    uint8_t modulus[TB_SIGNER_BYTES];
};
struct tb_tpm_approval {
    uint32_t mask;                       /* the registers */
    uint8_t policy[TB_TPM_DIGEST_BYTES]; /* TPM2_PolicyPCR of their values */
    uint8_t signature[TB_SIGNER_BYTES];  /* RSASSA, SHA-256 */
};
struct tb_tpm_approvals {
    size_t n;
    struct tb_tpm_approval v[TB_APPROVALS_MAX];
};

/* SubjectPublicKeyInfo, PEM. -EINVAL: it is none, or of another kind. */
int tb_tpm_signer_parse(const char *pem, size_t len, struct tb_tpm_signer *ret);
/* The document, which zeros may follow as on a partition. -EBADMSG, and why in err. */
int tb_tpm_approvals_parse(const char *buf, size_t len, struct tb_tpm_approvals *ret,
                           char err[static TB_JSON_ERR_MAX]);
/* NULL on ENOMEM. */
cJSON *tb_tpm_approvals_describe(const struct tb_tpm_approvals *a);
/* The one of the registers as they are; NULL: none. */
const struct tb_tpm_approval *tb_tpm_approval_find(const struct tb_tpm_approvals *a,
                                                   const struct tb_tpm_pcrs *pcrs);

/* What is signed: SHA-256 of it is the message's digest. */
void tb_tpm_approval_digest(const uint8_t policy[static TB_TPM_DIGEST_BYTES],
                            uint8_t ret[static TB_TPM_DIGEST_BYTES]);
/* TPMT_PUBLIC, and the name, of the key that signs. */
void tb_tpm_signer_public(struct tb_tpm_writer *w, const struct tb_tpm_signer *s);
void tb_tpm_signer_name(const struct tb_tpm_signer *s, uint8_t ret[static TB_TPM_NAME_BYTES]);
/* TPMT_PUBLIC of the key of the state: HMAC, usable by the signer's policy alone. */
void tb_tpm_state_template(struct tb_tpm_writer *w, const struct tb_tpm_signer *s);

/* A primary of the owner's hierarchy: the same key at each boot of this TPM, for this signer. The handle is
 * flushed by tb_tpm_flush(). */
int tb_tpm_state_key(struct tb_tpm *t, const struct tb_tpm_signer *s, uint32_t *ret_handle);
/* HMAC-SHA256 by it; p: at most 1024 bytes. -EPERM: the registers are not those of the approval. */
int tb_tpm_state_hmac(struct tb_tpm *t, uint32_t key, const struct tb_tpm_signer *s,
                      const struct tb_tpm_approval *a, const void *p, size_t n,
                      uint8_t ret[static TB_TPM_DIGEST_BYTES]);

#endif
