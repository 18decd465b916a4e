/* SPDX-License-Identifier: Apache-2.0 */
/* Whether evidence shows that a key belongs to a TPM that is trusted, and to the boot that it quotes. The
 * order of the checks is that of docs/attestation.md; each has its reason. No I/O. */
#ifndef CP_ATTEST_VERIFY_H
#define CP_ATTEST_VERIFY_H

#include "controlplane/attest/evidence.h"
#include "controlplane/attest/maa.h"
#include "controlplane/attest/roots.h"
#include "controlplane/attest/snp.h"

#define CP_AK_HEX 64
#define CP_PINS_MAX 16

/* What a contract asks of attestation keys. */
struct cp_attest_trust {
    unsigned roots;                        /* of enum cp_attest_root */
    char pins[CP_PINS_MAX][CP_AK_HEX + 1]; /* SHA-256 of the key's SubjectPublicKeyInfo */
    size_t n_pins;
};

struct cp_attest_rules {
    const struct cp_attest_roots *roots;
    const struct cp_attest_trust *trust;
    uint32_t pcrs;                      /* those that the boot key must need */
    uint8_t extra[TB_TPM_DIGEST_BYTES]; /* tb_attest_extra() of the challenge and the request */
    const struct cp_snp_terms *snp;     /* NULL: the machine need not be a confidential VM */
    const struct cp_maa_rules *maa;     /* with snp: a token says that it is one; NULL: its report does */
    uint64_t now_s;
};

/* Of a TPM's structures: the same resets and restarts are the same boot, in which ms grows. */
struct cp_tpm_clock {
    uint64_t ms;
    uint32_t resets, restarts;
};

struct cp_attested {
    struct cp_tpm_clock clock;          /* when the quote was made */
    char ak[CP_AK_HEX + 1];             /* which TPM: SHA-256 of the key's SubjectPublicKeyInfo, hex */
    uint8_t point[TB_P256_POINT_BYTES]; /* the key of this boot: what a model key is sealed to */
};

/* A quote over extra, by itself: 0; -EBADMSG: it is none, or not by a TPM's attestation key; -EACCES: that
 * key did not sign it, or it is over something else, or of other registers than pcrs, 0 to 15 (NULL: nobody
 * says which). ret_ak, but with -EBADMSG: whose it says to be. */
int cp_quote_verify(const struct tb_tpm_part *ak, const struct tb_tpm_part *quote,
                    const struct tb_tpm_part *signature, const uint8_t extra[static TB_TPM_DIGEST_BYTES],
                    const struct tb_tpm_pcrs *pcrs, char ret_ak[static CP_AK_HEX + 1],
                    struct cp_tpm_clock *ret);

/* NULL: it shows so. Else the reason code, and what about it in detail. */
const char *cp_evidence_verify(const struct cp_evidence *e, const struct cp_attest_rules *rules,
                               struct cp_attested *ret, char detail[static CP_ATTEST_DETAIL_MAX]);

#endif
