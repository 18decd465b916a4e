/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/secret.h"
#include "common/tpm_approval.h"
#include "common/tpm_command.h"
#include "common/tpm_key.h"

#define CC_HMAC 0x155U
#define CC_LOAD_EXTERNAL 0x167U
#define CC_POLICY_AUTHORIZE 0x16AU
#define CC_VERIFY_SIGNATURE 0x177U

int tb_tpm_state_key(struct tb_tpm *t, const struct tb_tpm_signer *s, uint32_t *ret_handle)
{
    struct tb_tpm_writer template = {.n = 0};
    struct tb_tpm_part public_area;

    tb_tpm_state_template(&template, s);
    return tb_tpm_primary(t, "making the key of the state", TB_TPM_RH_OWNER, &template, ret_handle,
                          &public_area);
}

/* TPMT_TK_VERIFIED: the TPM's own word that the signer signed the policy. */
static int approval_verify(struct tb_tpm *t, uint32_t signer, const struct tb_tpm_approval *a,
                           struct tb_tpm_part *ret)
{
    uint8_t digest[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_command c;
    int r;

    tb_tpm_approval_digest(a->policy, digest);
    tb_tpm_command_begin(&c, "checking the signature of the policy", TB_TPM_ST_NO_SESSIONS,
                         CC_VERIFY_SIGNATURE);
    tb_tpm_put_u32(&c.w, signer);
    tb_tpm_put_2b(&c.w, digest, sizeof(digest));
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_RSASSA);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_SHA256);
    tb_tpm_put_2b(&c.w, a->signature, sizeof(a->signature));
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    tb_tpm_command_take_part(&c, c.r.n, ret);
    return tb_tpm_command_end(t, &c);
}

static int approval_ticket(struct tb_tpm *t, const struct tb_tpm_signer *s, const struct tb_tpm_approval *a,
                           struct tb_tpm_part *ret)
{
    struct tb_tpm_writer area = {.n = 0};
    uint32_t handle;
    struct tb_tpm_command c;
    int r;

    tb_tpm_signer_public(&area, s);
    tb_tpm_command_begin(&c, "loading the key that signs policies", TB_TPM_ST_NO_SESSIONS, CC_LOAD_EXTERNAL);
    tb_tpm_put_2b(&c.w, NULL, 0);
    tb_tpm_put_2b(&c.w, area.b, area.n);
    tb_tpm_put_u32(&c.w, TB_TPM_RH_OWNER); /* a ticket of the null hierarchy is none */
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    handle = tb_tpm_take_u32(&c.r);
    r = tb_tpm_command_end(t, &c);
    if (r < 0)
        return r;
    r = approval_verify(t, handle, a, ret);
    tb_tpm_flush(t, handle);
    return r;
}

static int approval_session(struct tb_tpm *t, const struct tb_tpm_signer *s, const struct tb_tpm_approval *a,
                            uint32_t *ret)
{
    uint8_t name[TB_TPM_NAME_BYTES];
    struct tb_tpm_part ticket;
    struct tb_tpm_command c;
    int r = approval_ticket(t, s, a, &ticket);

    if (r == 0)
        r = tb_tpm_policy_session(t, a->mask, ret);
    if (r < 0)
        return r;
    tb_tpm_signer_name(s, name);
    tb_tpm_command_begin(&c, "the signed policy", TB_TPM_ST_NO_SESSIONS, CC_POLICY_AUTHORIZE);
    tb_tpm_put_u32(&c.w, *ret);
    tb_tpm_put_2b(&c.w, a->policy, sizeof(a->policy));
    tb_tpm_put_2b(&c.w, NULL, 0); /* policyRef */
    tb_tpm_put_2b(&c.w, name, sizeof(name));
    tb_tpm_put(&c.w, ticket.b, ticket.n);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        tb_tpm_flush(t, *ret);
    return r;
}

int tb_tpm_state_hmac(struct tb_tpm *t, uint32_t key, const struct tb_tpm_signer *s,
                      const struct tb_tpm_approval *a, const void *p, size_t n,
                      uint8_t ret[static TB_TPM_DIGEST_BYTES])
{
    struct tb_tpm_span mac;
    struct tb_tpm_command c;
    uint32_t session;
    int r = approval_session(t, s, a, &session);

    if (r < 0)
        return r;
    tb_tpm_command_begin(&c, "using the key of the state", TB_TPM_ST_SESSIONS, CC_HMAC);
    tb_tpm_put_u32(&c.w, key);
    tb_tpm_command_put_sessions(&c, &session, 1);
    tb_tpm_put_2b(&c.w, p, n);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL); /* the key's own scheme */
    r = tb_tpm_command_run(t, &c);
    tb_tpm_flush(t, session);
    if (r < 0)
        return r;
    tb_tpm_command_narrow(&c);
    mac = tb_tpm_take_2b(&c.r);
    c.r.bad |= mac.n != TB_TPM_DIGEST_BYTES;
    r = tb_tpm_command_end(t, &c);
    if (r == 0)
        memcpy(ret, mac.p, mac.n);
    tb_erase(c.answer, sizeof(c.answer));
    return r;
}
