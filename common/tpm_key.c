/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tpm_key.h"

#include <openssl/evp.h>
#include <string.h>

#include "common/macros.h"
#include "common/secret.h"

#define CC_POLICY_PCR 0x17FU
/* and not userWithAuth: only the policy opens it */
#define KEY_ATTRIBUTES                                                                                       \
    (TB_TPM_FIXED_TPM | TB_TPM_ST_CLEAR | TB_TPM_FIXED_PARENT | TB_TPM_SENSITIVE_ORIGIN | TB_TPM_NO_DA |     \
     TB_TPM_DECRYPT)

void tb_tpm_put_selection(struct tb_tpm_writer *w, uint32_t mask)
{
    tb_tpm_put_u32(w, 1);
    tb_tpm_put_u16(w, TB_TPM_ALG_SHA256);
    tb_tpm_put_u8(w, TB_TPM_PCRS / 8);
    for (size_t i = 0; i < TB_TPM_PCRS / 8; i++)
        tb_tpm_put_u8(w, (uint8_t)(mask >> (8 * i)));
}

uint32_t tb_tpm_take_selection(struct tb_tpm_reader *r)
{
    uint32_t mask = 0;

    if (tb_tpm_take_u32(r) != 1 || tb_tpm_take_u16(r) != TB_TPM_ALG_SHA256 ||
        tb_tpm_take_u8(r) != TB_TPM_PCRS / 8)
        return 0;
    for (size_t i = 0; i < TB_TPM_PCRS / 8; i++)
        mask |= (uint32_t)tb_tpm_take_u8(r) << (8 * i);
    return r->bad ? 0 : mask;
}

void tb_tpm_pcrs_digest(uint32_t mask, const struct tb_tpm_pcrs *pcrs,
                        uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    uint8_t all[TB_TPM_PCRS * TB_TPM_DIGEST_BYTES];
    size_t n = 0;

    for (size_t i = 0; i < TB_TPM_PCRS; i++)
        if (mask & 1U << i) {
            memcpy(all + n, pcrs->v[i], TB_TPM_DIGEST_BYTES);
            n += TB_TPM_DIGEST_BYTES;
        }
    (void)EVP_Digest(all, n, ret, NULL, EVP_sha256(), NULL);
}

/* TPM2_PolicyPCR, part 3, 23.7: new policy = H(old policy | command | selection | digest of the values). */
void tb_tpm_pcrs_policy(uint32_t mask, const struct tb_tpm_pcrs *pcrs,
                        uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    static const uint8_t start[TB_TPM_DIGEST_BYTES];
    uint8_t digest[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_writer w;

    w.n = 0;
    w.bad = false;
    tb_tpm_pcrs_digest(mask, pcrs, digest);
    tb_tpm_put(&w, start, sizeof(start));
    tb_tpm_put_u32(&w, CC_POLICY_PCR);
    tb_tpm_put_selection(&w, mask);
    tb_tpm_put(&w, digest, sizeof(digest));
    (void)EVP_Digest(w.b, w.n, ret, NULL, EVP_sha256(), NULL);
}

/* What lies between the policy and the point: no symmetric cipher, no scheme, the curve, no KDF. */
static void key_put_parameters(struct tb_tpm_writer *w)
{
    tb_tpm_put_u16(w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(w, TB_TPM_ECC_P256);
    tb_tpm_put_u16(w, TB_TPM_ALG_NULL);
}

void tb_tpm_key_template(struct tb_tpm_writer *w, const uint8_t policy[static TB_TPM_DIGEST_BYTES])
{
    tb_tpm_put_u16(w, TB_TPM_ALG_ECC);
    tb_tpm_put_u16(w, TB_TPM_ALG_SHA256);
    tb_tpm_put_u32(w, KEY_ATTRIBUTES);
    tb_tpm_put_2b(w, policy, TB_TPM_DIGEST_BYTES);
    key_put_parameters(w);
    tb_tpm_put_2b(w, NULL, 0);
    tb_tpm_put_2b(w, NULL, 0);
}

/* Without its leading zeros a coordinate may be shorter. */
static void key_take_coordinate(struct tb_tpm_reader *r, uint8_t ret[static TB_P256_COORDINATE_BYTES])
{
    struct tb_tpm_span s = tb_tpm_take_2b(r);

    if (s.n == 0 || s.n > TB_P256_COORDINATE_BYTES) {
        r->bad = true;
        return;
    }
    memset(ret, 0, TB_P256_COORDINATE_BYTES - s.n);
    memcpy(ret + TB_P256_COORDINATE_BYTES - s.n, s.p, s.n);
}

int tb_tpm_key_read(struct tb_tpm_span public_area, const uint8_t policy[static TB_TPM_DIGEST_BYTES],
                    uint8_t ret_point[static TB_P256_POINT_BYTES])
{
    struct tb_tpm_reader r = tb_tpm_reader(public_area);
    uint16_t type = tb_tpm_take_u16(&r), name = tb_tpm_take_u16(&r);
    uint32_t attributes = tb_tpm_take_u32(&r);
    struct tb_tpm_span has = tb_tpm_take_2b(&r);
    uint16_t symmetric = tb_tpm_take_u16(&r), scheme = tb_tpm_take_u16(&r), curve = tb_tpm_take_u16(&r),
             kdf = tb_tpm_take_u16(&r);

    ret_point[0] = 0x04;
    key_take_coordinate(&r, ret_point + 1);
    key_take_coordinate(&r, ret_point + 1 + TB_P256_COORDINATE_BYTES);
    if (!tb_tpm_is_read(&r) || type != TB_TPM_ALG_ECC || name != TB_TPM_ALG_SHA256 ||
        attributes != KEY_ATTRIBUTES || has.n != TB_TPM_DIGEST_BYTES || symmetric != TB_TPM_ALG_NULL ||
        scheme != TB_TPM_ALG_NULL || curve != TB_TPM_ECC_P256 || kdf != TB_TPM_ALG_NULL)
        return -EINVAL;
    return tb_mem_equal(has.p, policy, TB_TPM_DIGEST_BYTES) ? 0 : -EPERM;
}
