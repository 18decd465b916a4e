/* SPDX-License-Identifier: Apache-2.0 */
/* Challenges for evidence: made without a table, so that any server of one database takes what another gave.
 * expires(8) | random(8) | HMAC-SHA256(secret, expires | random | contract | asset | machine)[0..16). That
 * each is taken once is the store's. */
#ifndef CP_CHALLENGE_H
#define CP_CHALLENGE_H

#include "common/attest.h"

#define CP_CHALLENGE_S (15 * 60)
/* Of renewals: the next one comes within half a lease; the longest that a challenge is good for. */
#define CP_CHALLENGE_LONGEST_S (24 * 3600)
#define CP_CHALLENGE_SECRET_BYTES 32

int cp_challenge_make(const uint8_t secret[static CP_CHALLENGE_SECRET_BYTES],
                      const struct tb_attest_subject *s, uint64_t now_s, uint64_t good_for_s,
                      uint8_t ret[static TB_CHALLENGE_BYTES]);

/* 0 and when it ends; -EBADMSG: not of this secret or for somebody else; -ETIME: it has ended. */
int cp_challenge_check(const uint8_t secret[static CP_CHALLENGE_SECRET_BYTES],
                       const struct tb_attest_subject *s, uint64_t now_s,
                       const uint8_t challenge[static TB_CHALLENGE_BYTES], uint64_t *ret_expires_s);

#endif
