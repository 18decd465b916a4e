/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/challenge.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

#include "common/secret.h"
#include "common/tpm_wire.h"

#define HEAD_BYTES 16
#define MAC_BYTES (TB_CHALLENGE_BYTES - HEAD_BYTES)

static void put_text(struct tb_tpm_writer *w, const char *s)
{
    tb_tpm_put_2b(w, s, strlen(s));
}

static int challenge_mac(const uint8_t *secret, const struct tb_attest_subject *s, const uint8_t *head,
                         uint8_t ret[static MAC_BYTES])
{
    uint8_t mac[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_writer w;
    unsigned len = sizeof(mac);

    w.n = 0;
    w.bad = false;
    tb_tpm_put(&w, "trustbridge challenge v1", sizeof("trustbridge challenge v1"));
    tb_tpm_put(&w, head, HEAD_BYTES);
    put_text(&w, s->contract_id);
    put_text(&w, s->asset_id);
    put_text(&w, s->hw_id);
    if (w.bad || !HMAC(EVP_sha256(), secret, CP_CHALLENGE_SECRET_BYTES, w.b, w.n, mac, &len))
        return -EIO;
    memcpy(ret, mac, MAC_BYTES);
    return 0;
}

int cp_challenge_make(const uint8_t secret[static CP_CHALLENGE_SECRET_BYTES],
                      const struct tb_attest_subject *s, uint64_t now_s, uint64_t good_for_s,
                      uint8_t ret[static TB_CHALLENGE_BYTES])
{
    uint64_t expires = now_s + MIN(good_for_s, (uint64_t)CP_CHALLENGE_LONGEST_S);
    int r = tb_random(ret + 8, 8);

    for (int i = 0; i < 8; i++)
        ret[i] = (uint8_t)(expires >> (56 - 8 * i));
    return r < 0 ? r : challenge_mac(secret, s, ret, ret + HEAD_BYTES);
}

int cp_challenge_check(const uint8_t secret[static CP_CHALLENGE_SECRET_BYTES],
                       const struct tb_attest_subject *s, uint64_t now_s,
                       const uint8_t challenge[static TB_CHALLENGE_BYTES], uint64_t *ret_expires_s)
{
    uint8_t mac[MAC_BYTES];
    int r = challenge_mac(secret, s, challenge, mac);

    if (r < 0)
        return r;
    if (!tb_mem_equal(mac, challenge + HEAD_BYTES, sizeof(mac)))
        return -EBADMSG;
    *ret_expires_s = 0;
    for (int i = 0; i < 8; i++)
        *ret_expires_s = *ret_expires_s << 8 | challenge[i];
    return *ret_expires_s <= now_s || *ret_expires_s > now_s + CP_CHALLENGE_LONGEST_S ? -ETIME : 0;
}
