/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/unwrap.h"

#include <string.h>

#include "common/tpm_key.h"

#define STALE                                                                                                \
    "the model key was sealed for another contract, manifest or state of this machine; asking for it again"

/* The key of this boot, made again: the same one while its registers are the same. */
static int unwrap_by_boot_key(struct tb_tpm *t, const struct tb_wrapped_key *w, const uint8_t *info,
                              size_t info_len, struct tb_key *ret)
{
    uint8_t z[TB_P256_COORDINATE_BYTES], policy[TB_TPM_DIGEST_BYTES], point[TB_P256_POINT_BYTES];
    struct tb_tpm_pcrs pcrs;
    struct tb_tpm_part area;
    uint32_t key;
    int r = tb_tpm_boot_key(t, w->pcrs, &key, &area);

    if (r < 0)
        return r;
    r = tb_tpm_ecdh(t, key, w->pcrs, w->enc, z);
    tb_tpm_flush(t, key);
    if (r == 0)
        r = tb_tpm_read_pcrs(t, w->pcrs, &pcrs);
    if (r < 0)
        return r;
    tb_tpm_pcrs_policy(w->pcrs, &pcrs, policy);
    r = tb_tpm_key_read((struct tb_tpm_span){area.b, area.n}, policy, point);
    if (r == 0)
        r = tb_hpke_open(z, w->enc, point, info, info_len, w->ct, sizeof(w->ct), ret->b);
    tb_erase(z, sizeof(z));
    return r == -EPERM ? -EAGAIN : r; /* a register changed meanwhile */
}

int tb_unwrap_key(const struct tb_config *c, const char *manifest_sha256, const struct tb_wrapped_key *w,
                  struct tb_key *ret, struct tb_outcome *o)
{
    _cleanup_tpm_ struct tb_tpm t = {.fd = -1};
    uint8_t info[TB_HPKE_INFO_MAX];
    size_t info_len;
    int r = tb_attest_info(c->contract_id, c->asset_id, manifest_sha256, info, &info_len);

    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_CONFIG, "the names that the model key is bound to are too long");
    r = tb_tpm_open(c->tpm, &t);
    if (r == 0)
        r = unwrap_by_boot_key(&t, w, info, info_len, ret);
    if (r == -EBADMSG || r == -EPERM || r == -EAGAIN || r == -EINVAL)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, STALE);
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "cannot open the model key: %s",
                              *t.err ? t.err : strerror(-r));
    return 0;
}
