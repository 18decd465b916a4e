/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tpm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/tpm_command.h"
#include "common/tpm_key.h"

/* Part 2, 6: structure tags, handles, commands, response codes. */
#define CC_CREATE_PRIMARY 0x131U
#define CC_CERTIFY 0x148U
#define CC_NV_READ 0x14EU
#define CC_ECDH_ZGEN 0x154U
#define CC_QUOTE 0x158U
#define CC_FLUSH_CONTEXT 0x165U
#define CC_NV_READ_PUBLIC 0x169U
#define CC_READ_PUBLIC 0x173U
#define CC_START_AUTH_SESSION 0x176U
#define CC_PCR_READ 0x17EU
#define CC_POLICY_PCR 0x17FU

#define NV_READ_BYTES 512 /* at a time; every TPM takes so much */

int tb_tpm_open(const char *path, struct tb_tpm *ret)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    int r = 0;

    *ret = (struct tb_tpm){.fd = -1};
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (strlen(path) >= sizeof(sa.sun_path))
            return tb_tpm_fail(ret, -ENAMETOOLONG, path, "the path of a socket is too long");
        strcpy(sa.sun_path, path);
        ret->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (ret->fd < 0 || connect(ret->fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
            r = -errno;
    } else {
        ret->fd = open(path, O_RDWR | O_CLOEXEC);
        if (ret->fd < 0)
            r = -errno;
    }
    if (r == -ENOENT || r == -ENODEV || r == -ENXIO)
        return tb_tpm_fail(ret, -ENOENT, path,
                           "not there; choose a machine with a virtual TPM (Trusted Launch, vTpmEnabled)");
    return r < 0 ? tb_tpm_fail(ret, r, path, strerror(-r)) : 0;
}

void tb_tpm_close(struct tb_tpm *t)
{
    t->fd = tb_close(t->fd);
}

/* -- commands ------------------------------------------------------------------------------------ */
int tb_tpm_read_public(struct tb_tpm *t, uint32_t handle, struct tb_tpm_part *ret)
{
    struct tb_tpm_command c;
    int r;

    tb_tpm_command_begin(&c, "reading the attestation key at 0x81000003", TB_TPM_ST_NO_SESSIONS,
                         CC_READ_PUBLIC);
    tb_tpm_put_u32(&c.w, handle);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    tb_tpm_command_take_part(&c, tb_tpm_take_u16(&c.r), ret);
    return tb_tpm_command_end(t, &c);
}

static const char *nv_what(uint32_t index)
{
    return index == TB_TPM_AK_CERT_NV ? "reading the attestation key's certificate"
                                      : "reading the report of the confidential VM";
}

static int nv_size(struct tb_tpm *t, uint32_t index, size_t *ret)
{
    struct tb_tpm_command c;
    int r;

    tb_tpm_command_begin(&c, nv_what(index), TB_TPM_ST_NO_SESSIONS, CC_NV_READ_PUBLIC);
    tb_tpm_put_u32(&c.w, index);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    (void)tb_tpm_take_u16(&c.r); /* TPMS_NV_PUBLIC: index, name algorithm, attributes, policy, size */
    (void)tb_tpm_take(&c.r, 4 + 2 + 4);
    (void)tb_tpm_take_2b(&c.r);
    *ret = tb_tpm_take_u16(&c.r);
    return tb_tpm_command_end(t, &c);
}

int tb_tpm_read_nv(struct tb_tpm *t, uint32_t index, uint8_t *out, size_t max, size_t *ret_len)
{
    size_t size, n;
    int r = nv_size(t, index, &size);

    if (r < 0)
        return r;
    if (size > max)
        return tb_tpm_fail(t, -EMSGSIZE, nv_what(index), "too long");
    for (size_t at = 0; at < size; at += n) {
        struct tb_tpm_span part;
        struct tb_tpm_command c;

        n = MIN(size - at, NV_READ_BYTES);
        tb_tpm_command_begin(&c, nv_what(index), TB_TPM_ST_SESSIONS, CC_NV_READ);
        tb_tpm_put_u32(&c.w, TB_TPM_RH_OWNER);
        tb_tpm_put_u32(&c.w, index);
        tb_tpm_command_put_sessions(&c, tb_tpm_password, 1);
        tb_tpm_put_u16(&c.w, (uint16_t)n);
        tb_tpm_put_u16(&c.w, (uint16_t)at);
        r = tb_tpm_command_run(t, &c);
        if (r < 0)
            return r;
        tb_tpm_command_narrow(&c);
        part = tb_tpm_take_2b(&c.r);
        c.r.bad |= part.n != n;
        if (tb_tpm_command_end(t, &c) < 0)
            return -EBADMSG;
        memcpy(out + at, part.p, n);
    }
    *ret_len = size;
    return 0;
}

/* A TPM gives some of them at a time. */
static int pcrs_read_some(struct tb_tpm *t, uint32_t mask, struct tb_tpm_pcrs *ret, uint32_t *ret_got)
{
    struct tb_tpm_command c;
    uint32_t got, n;
    int r;

    tb_tpm_command_begin(&c, "reading the PCRs", TB_TPM_ST_NO_SESSIONS, CC_PCR_READ);
    tb_tpm_put_selection(&c.w, mask);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    (void)tb_tpm_take_u32(&c.r); /* update counter */
    got = tb_tpm_take_selection(&c.r);
    n = tb_tpm_take_u32(&c.r);
    if (got == 0 || (got & ~mask) || n != (uint32_t)__builtin_popcount(got))
        return tb_tpm_fail(t, -EBADMSG, c.what, "the SHA-256 bank is not there");
    for (size_t i = 0; i < TB_TPM_PCRS; i++) {
        struct tb_tpm_span s;

        if (!(got & 1U << i))
            continue;
        s = tb_tpm_take_2b(&c.r);
        c.r.bad |= s.n != TB_TPM_DIGEST_BYTES;
        if (tb_tpm_command_end(t, &c) < 0)
            return -EBADMSG;
        memcpy(ret->v[i], s.p, s.n);
    }
    *ret_got = got;
    return 0;
}

int tb_tpm_read_pcrs(struct tb_tpm *t, uint32_t mask, struct tb_tpm_pcrs *ret)
{
    uint32_t got;

    for (; mask; mask &= ~got) {
        int r = pcrs_read_some(t, mask, ret, &got);

        if (r < 0)
            return r;
    }
    return 0;
}

/* Of TPM2_Quote and TPM2_Certify: what is attested, and the signature of it. */
static int attestation_run(struct tb_tpm *t, struct tb_tpm_command *c, struct tb_tpm_part *ret_attest,
                           struct tb_tpm_part *ret_signature)
{
    int r = tb_tpm_command_run(t, c);

    if (r < 0)
        return r;
    tb_tpm_command_narrow(c);
    tb_tpm_command_take_part(c, tb_tpm_take_u16(&c->r), ret_attest);
    tb_tpm_command_take_part(c, c->r.n, ret_signature);
    return tb_tpm_command_end(t, c);
}

int tb_tpm_quote(struct tb_tpm *t, uint32_t ak, uint32_t mask,
                 const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                 struct tb_tpm_part *ret_signature)
{
    struct tb_tpm_command c;

    tb_tpm_command_begin(&c, "quoting the PCRs", TB_TPM_ST_SESSIONS, CC_QUOTE);
    tb_tpm_put_u32(&c.w, ak);
    tb_tpm_command_put_sessions(&c, tb_tpm_password, 1);
    tb_tpm_put_2b(&c.w, extra, TB_TPM_DIGEST_BYTES);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL); /* the key's own scheme */
    tb_tpm_put_selection(&c.w, mask);
    return attestation_run(t, &c, ret_attest, ret_signature);
}

int tb_tpm_certify(struct tb_tpm *t, uint32_t object, uint32_t ak,
                   const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                   struct tb_tpm_part *ret_signature)
{
    struct tb_tpm_command c;

    tb_tpm_command_begin(&c, "certifying the boot key", TB_TPM_ST_SESSIONS, CC_CERTIFY);
    tb_tpm_put_u32(&c.w, object);
    tb_tpm_put_u32(&c.w, ak);
    tb_tpm_command_put_sessions(&c, tb_tpm_password, 2);
    tb_tpm_put_2b(&c.w, extra, TB_TPM_DIGEST_BYTES);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL);
    return attestation_run(t, &c, ret_attest, ret_signature);
}

int tb_tpm_primary(struct tb_tpm *t, const char *what, uint32_t hierarchy,
                   const struct tb_tpm_writer *template, uint32_t *ret_handle, struct tb_tpm_part *ret_public)
{
    struct tb_tpm_command c;
    int r;

    tb_tpm_command_begin(&c, what, TB_TPM_ST_SESSIONS, CC_CREATE_PRIMARY);
    tb_tpm_put_u32(&c.w, hierarchy);
    tb_tpm_command_put_sessions(&c, tb_tpm_password, 1);
    tb_tpm_put_u16(&c.w, 4); /* TPM2B_SENSITIVE_CREATE: no tb_tpm_password, no data */
    tb_tpm_put_u32(&c.w, 0);
    tb_tpm_put_2b(&c.w, template->b, template->n);
    tb_tpm_put_2b(&c.w, NULL, 0); /* outsideInfo */
    tb_tpm_put_u32(&c.w, 0);      /* creationPCR: none */
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    *ret_handle = tb_tpm_take_u32(&c.r);
    tb_tpm_command_narrow(&c);
    tb_tpm_command_take_part(&c, tb_tpm_take_u16(&c.r), ret_public);
    r = tb_tpm_command_end(t, &c);
    if (r < 0)
        tb_tpm_flush(t, *ret_handle);
    return r;
}

int tb_tpm_boot_key(struct tb_tpm *t, uint32_t mask, uint32_t *ret_handle, struct tb_tpm_part *ret_public)
{
    struct tb_tpm_writer template = {.n = 0};
    uint8_t policy[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_pcrs pcrs;
    int r = tb_tpm_read_pcrs(t, mask, &pcrs);

    if (r < 0)
        return r;
    tb_tpm_pcrs_policy(mask, &pcrs, policy);
    tb_tpm_key_template(&template, policy);
    return tb_tpm_primary(t, "making the boot key", TB_TPM_RH_NULL, &template, ret_handle, ret_public);
}

void tb_tpm_flush(struct tb_tpm *t, uint32_t handle)
{
    uint32_t response = t->response;
    char err[TB_TPM_ERR_MAX];
    struct tb_tpm_command c;

    memcpy(err, t->err, sizeof(err));
    tb_tpm_command_begin(&c, "flushing", TB_TPM_ST_NO_SESSIONS, CC_FLUSH_CONTEXT);
    tb_tpm_put_u32(&c.w, handle);
    (void)tb_tpm_command_run(t, &c);
    t->response = response;
    memcpy(t->err, err, sizeof(err));
}

static int policy_begin(struct tb_tpm *t, uint32_t *ret)
{
    static const uint8_t nonce[16];
    struct tb_tpm_command c;
    int r;

    tb_tpm_command_begin(&c, "opening a session", TB_TPM_ST_NO_SESSIONS, CC_START_AUTH_SESSION);
    tb_tpm_put_u32(&c.w, TB_TPM_RH_NULL);
    tb_tpm_put_u32(&c.w, TB_TPM_RH_NULL);
    tb_tpm_put_2b(&c.w, nonce, sizeof(nonce)); /* of a session that neither encrypts nor signs */
    tb_tpm_put_2b(&c.w, NULL, 0);
    tb_tpm_put_u8(&c.w, 1); /* TPM_SE_POLICY */
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_SHA256);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        return r;
    *ret = tb_tpm_take_u32(&c.r);
    return tb_tpm_command_end(t, &c);
}

/* A session that has the registers of mask as they are. */
int tb_tpm_policy_session(struct tb_tpm *t, uint32_t mask, uint32_t *ret)
{
    struct tb_tpm_command c;
    int r = policy_begin(t, ret);

    if (r < 0)
        return r;
    tb_tpm_command_begin(&c, "the policy of the PCRs", TB_TPM_ST_NO_SESSIONS, CC_POLICY_PCR);
    tb_tpm_put_u32(&c.w, *ret);
    tb_tpm_put_2b(&c.w, NULL, 0); /* of the values as they are */
    tb_tpm_put_selection(&c.w, mask);
    r = tb_tpm_command_run(t, &c);
    if (r < 0)
        tb_tpm_flush(t, *ret);
    return r;
}

int tb_tpm_ecdh(struct tb_tpm *t, uint32_t key, uint32_t mask,
                const uint8_t point[static TB_P256_POINT_BYTES],
                uint8_t ret_z[static TB_P256_COORDINATE_BYTES])
{
    const uint16_t coordinate = TB_P256_COORDINATE_BYTES;
    struct tb_tpm_span x;
    struct tb_tpm_command c;
    uint32_t session;
    int r = tb_tpm_policy_session(t, mask, &session);

    if (r < 0)
        return r;
    tb_tpm_command_begin(&c, "using the boot key", TB_TPM_ST_SESSIONS, CC_ECDH_ZGEN);
    tb_tpm_put_u32(&c.w, key);
    tb_tpm_command_put_sessions(&c, &session, 1);
    tb_tpm_put_u16(&c.w, 2 * (2 + coordinate)); /* TPM2B_ECC_POINT */
    tb_tpm_put_2b(&c.w, point + 1, coordinate);
    tb_tpm_put_2b(&c.w, point + 1 + coordinate, coordinate);
    r = tb_tpm_command_run(t, &c);
    tb_tpm_flush(t, session);
    if (r < 0)
        return r;
    tb_tpm_command_narrow(&c);
    (void)tb_tpm_take_u16(&c.r);
    x = tb_tpm_take_2b(&c.r);
    c.r.bad |= x.n > coordinate;
    r = tb_tpm_command_end(t, &c);
    if (r < 0)
        return r;
    memset(ret_z, 0, coordinate - x.n);
    memcpy(ret_z + coordinate - x.n, x.p, x.n);
    return 0;
}
