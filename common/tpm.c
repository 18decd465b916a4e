/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tpm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/tpm_key.h"
#include "common/tpm_wire.h"
#include "common/units.h"

/* Part 2, 6: structure tags, handles, commands, response codes. */
#define ST_NO_SESSIONS 0x8001
#define ST_SESSIONS 0x8002
#define RH_OWNER 0x40000001U
#define RH_NULL 0x40000007U
#define RS_PASSWORD 0x40000009U
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
#define RC_HANDLE 0x08BU      /* and the number of the handle in bits 8 to 10 */
#define RC_POLICY_FAIL 0x09DU /* and the number of the session */
#define RC_YIELDED 0x908U
#define RC_RETRY 0x922U
#define RC_FORMAT_ONE 0x080U
#define RC_FORMAT_ONE_MASK 0x0BFU

#define HEADER_BYTES 10
#define NV_READ_BYTES 512 /* at a time; every TPM takes so much */
#define BUSY_TRIES 5
#define BUSY_PAUSE_MS 50

static const uint32_t password[2] = {RS_PASSWORD, RS_PASSWORD};

static int tpm_fail(struct tb_tpm *t, int r, const char *what, const char *why)
{
    snprintf(t->err, sizeof(t->err), "the TPM: %s: %s", what, why);
    return r;
}

int tb_tpm_open(const char *path, struct tb_tpm *ret)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;
    int r = 0;

    *ret = (struct tb_tpm){.fd = -1};
    if (stat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        if (strlen(path) >= sizeof(sa.sun_path))
            return tpm_fail(ret, -ENAMETOOLONG, path, "the path of a socket is too long");
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
        return tpm_fail(ret, -ENOENT, path,
                        "not there; choose a machine with a virtual TPM (Trusted Launch, vTpmEnabled)");
    return r < 0 ? tpm_fail(ret, r, path, strerror(-r)) : 0;
}

void tb_tpm_close(struct tb_tpm *t)
{
    t->fd = tb_close(t->fd);
}

/* -- a command and its response ------------------------------------------------------------------ */
struct command {
    const char *what; /* for people */
    struct tb_tpm_writer w;
    uint8_t answer[TB_TPM_MESSAGE_MAX];
    struct tb_tpm_reader r; /* what follows the response's header */
};

static void command_begin(struct command *c, const char *what, uint16_t tag, uint32_t code)
{
    c->what = what;
    c->w.n = 0;
    c->w.bad = false;
    tb_tpm_put_u16(&c->w, tag);
    tb_tpm_put_u32(&c->w, 0);
    tb_tpm_put_u32(&c->w, code);
}

/* One authorisation for each session: an empty password, or a policy. */
static void command_put_sessions(struct command *c, const uint32_t *sessions, size_t n)
{
    tb_tpm_put_u32(&c->w, (uint32_t)(n * (4 + 2 + 1 + 2)));
    for (size_t i = 0; i < n; i++) {
        tb_tpm_put_u32(&c->w, sessions[i]);
        tb_tpm_put_2b(&c->w, NULL, 0); /* nonce */
        tb_tpm_put_u8(&c->w, 1);       /* continueSession */
        tb_tpm_put_2b(&c->w, NULL, 0); /* password, HMAC */
    }
}

/* At least n bytes of the answer. The device gives it whole, a socket may not. */
static int command_fill(struct tb_tpm *t, struct command *c, size_t *have, size_t n)
{
    while (*have < n) {
        ssize_t k = read(t->fd, c->answer + *have, sizeof(c->answer) - *have);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return tpm_fail(t, k < 0 ? -errno : -EPIPE, c->what, k < 0 ? strerror(errno) : "no answer");
        *have += (size_t)k;
    }
    return 0;
}

static int command_send(struct tb_tpm *t, struct command *c)
{
    const uint32_t size = (uint32_t)c->w.n;
    ssize_t k;

    for (int i = 0; i < 4; i++)
        c->w.b[2 + i] = (uint8_t)(size >> (24 - 8 * i));
    do
        k = write(t->fd, c->w.b, c->w.n); /* whole: the device takes it at once */
    while (k < 0 && errno == EINTR);
    if (k < 0)
        return tpm_fail(t, -errno, c->what, strerror(errno));
    return (size_t)k == c->w.n ? 0 : tpm_fail(t, -EIO, c->what, "the command was cut short");
}

static int command_once(struct tb_tpm *t, struct command *c)
{
    size_t have = 0, size;
    int r = command_send(t, c);

    if (r == 0)
        r = command_fill(t, c, &have, HEADER_BYTES);
    if (r < 0)
        return r;
    c->r = (struct tb_tpm_reader){.p = c->answer, .n = HEADER_BYTES};
    (void)tb_tpm_take_u16(&c->r);
    size = tb_tpm_take_u32(&c->r);
    t->response = tb_tpm_take_u32(&c->r);
    if (size < HEADER_BYTES || size > sizeof(c->answer))
        return tpm_fail(t, -EBADMSG, c->what, "a malformed answer");
    r = command_fill(t, c, &have, size);
    c->r = (struct tb_tpm_reader){.p = c->answer + HEADER_BYTES, .n = size - HEADER_BYTES};
    return r;
}

static bool response_is(uint32_t response, uint32_t code)
{
    return (response & RC_FORMAT_ONE) && (response & RC_FORMAT_ONE_MASK) == code;
}

static int command_refused(struct tb_tpm *t, const struct command *c)
{
    char code[40];

    if (t->response == RC_YIELDED || t->response == RC_RETRY)
        return tpm_fail(t, -EBUSY, c->what, "the TPM is busy");
    if (response_is(t->response, RC_POLICY_FAIL))
        return tpm_fail(t, -EPERM, c->what, "this boot's measurements are not those that the key is for");
    if (response_is(t->response, RC_HANDLE))
        return tpm_fail(t, -ENOKEY, c->what, "there is no such object");
    snprintf(code, sizeof(code), "refused with response code 0x%x", t->response);
    return tpm_fail(t, -EPROTO, c->what, code);
}

static int command_run(struct tb_tpm *t, struct command *c)
{
    int r;

    if (c->w.bad)
        return tpm_fail(t, -EMSGSIZE, c->what, "the command is too long");
    for (int tries = 1;; tries++) {
        r = command_once(t, c);
        if (r < 0 || t->response == 0)
            return r;
        r = command_refused(t, c);
        if (r != -EBUSY || tries == BUSY_TRIES)
            return r;
        tb_sleep_ms(BUSY_PAUSE_MS);
    }
}

/* Of a response with sessions: what follows are this many bytes of parameters, then the sessions. */
static void command_narrow(struct command *c)
{
    uint32_t n = tb_tpm_take_u32(&c->r);

    if (n > c->r.n)
        c->r.bad = true;
    else
        c->r.n = n;
}

static int command_end(struct tb_tpm *t, const struct command *c)
{
    return c->r.bad ? tpm_fail(t, -EBADMSG, c->what, "a malformed answer") : 0;
}

static void command_take_part(struct command *c, size_t n, struct tb_tpm_part *ret)
{
    struct tb_tpm_span s = {0};

    if (n > sizeof(ret->b))
        c->r.bad = true;
    else
        s = tb_tpm_take(&c->r, n);
    ret->n = s.n;
    if (s.n > 0)
        memcpy(ret->b, s.p, s.n);
}

/* -- commands ------------------------------------------------------------------------------------ */
int tb_tpm_read_public(struct tb_tpm *t, uint32_t handle, struct tb_tpm_part *ret)
{
    struct command c;
    int r;

    command_begin(&c, "reading the attestation key at 0x81000003", ST_NO_SESSIONS, CC_READ_PUBLIC);
    tb_tpm_put_u32(&c.w, handle);
    r = command_run(t, &c);
    if (r < 0)
        return r;
    command_take_part(&c, tb_tpm_take_u16(&c.r), ret);
    return command_end(t, &c);
}

static const char *nv_what(uint32_t index)
{
    return index == TB_TPM_AK_CERT_NV ? "reading the attestation key's certificate"
                                      : "reading the report of the confidential VM";
}

static int nv_size(struct tb_tpm *t, uint32_t index, size_t *ret)
{
    struct command c;
    int r;

    command_begin(&c, nv_what(index), ST_NO_SESSIONS, CC_NV_READ_PUBLIC);
    tb_tpm_put_u32(&c.w, index);
    r = command_run(t, &c);
    if (r < 0)
        return r;
    (void)tb_tpm_take_u16(&c.r); /* TPMS_NV_PUBLIC: index, name algorithm, attributes, policy, size */
    (void)tb_tpm_take(&c.r, 4 + 2 + 4);
    (void)tb_tpm_take_2b(&c.r);
    *ret = tb_tpm_take_u16(&c.r);
    return command_end(t, &c);
}

int tb_tpm_read_nv(struct tb_tpm *t, uint32_t index, uint8_t *out, size_t max, size_t *ret_len)
{
    size_t size, n;
    int r = nv_size(t, index, &size);

    if (r < 0)
        return r;
    if (size > max)
        return tpm_fail(t, -EMSGSIZE, nv_what(index), "too long");
    for (size_t at = 0; at < size; at += n) {
        struct tb_tpm_span part;
        struct command c;

        n = MIN(size - at, NV_READ_BYTES);
        command_begin(&c, nv_what(index), ST_SESSIONS, CC_NV_READ);
        tb_tpm_put_u32(&c.w, RH_OWNER);
        tb_tpm_put_u32(&c.w, index);
        command_put_sessions(&c, password, 1);
        tb_tpm_put_u16(&c.w, (uint16_t)n);
        tb_tpm_put_u16(&c.w, (uint16_t)at);
        r = command_run(t, &c);
        if (r < 0)
            return r;
        command_narrow(&c);
        part = tb_tpm_take_2b(&c.r);
        c.r.bad |= part.n != n;
        if (command_end(t, &c) < 0)
            return -EBADMSG;
        memcpy(out + at, part.p, n);
    }
    *ret_len = size;
    return 0;
}

/* A TPM gives some of them at a time. */
static int pcrs_read_some(struct tb_tpm *t, uint32_t mask, struct tb_tpm_pcrs *ret, uint32_t *ret_got)
{
    struct command c;
    uint32_t got, n;
    int r;

    command_begin(&c, "reading the PCRs", ST_NO_SESSIONS, CC_PCR_READ);
    tb_tpm_put_selection(&c.w, mask);
    r = command_run(t, &c);
    if (r < 0)
        return r;
    (void)tb_tpm_take_u32(&c.r); /* update counter */
    got = tb_tpm_take_selection(&c.r);
    n = tb_tpm_take_u32(&c.r);
    if (got == 0 || (got & ~mask) || n != (uint32_t)__builtin_popcount(got))
        return tpm_fail(t, -EBADMSG, c.what, "the SHA-256 bank is not there");
    for (size_t i = 0; i < TB_TPM_PCRS; i++) {
        struct tb_tpm_span s;

        if (!(got & 1U << i))
            continue;
        s = tb_tpm_take_2b(&c.r);
        c.r.bad |= s.n != TB_TPM_DIGEST_BYTES;
        if (command_end(t, &c) < 0)
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
static int attestation_run(struct tb_tpm *t, struct command *c, struct tb_tpm_part *ret_attest,
                           struct tb_tpm_part *ret_signature)
{
    int r = command_run(t, c);

    if (r < 0)
        return r;
    command_narrow(c);
    command_take_part(c, tb_tpm_take_u16(&c->r), ret_attest);
    command_take_part(c, c->r.n, ret_signature);
    return command_end(t, c);
}

int tb_tpm_quote(struct tb_tpm *t, uint32_t ak, uint32_t mask,
                 const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                 struct tb_tpm_part *ret_signature)
{
    struct command c;

    command_begin(&c, "quoting the PCRs", ST_SESSIONS, CC_QUOTE);
    tb_tpm_put_u32(&c.w, ak);
    command_put_sessions(&c, password, 1);
    tb_tpm_put_2b(&c.w, extra, TB_TPM_DIGEST_BYTES);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL); /* the key's own scheme */
    tb_tpm_put_selection(&c.w, mask);
    return attestation_run(t, &c, ret_attest, ret_signature);
}

int tb_tpm_certify(struct tb_tpm *t, uint32_t object, uint32_t ak,
                   const uint8_t extra[static TB_TPM_DIGEST_BYTES], struct tb_tpm_part *ret_attest,
                   struct tb_tpm_part *ret_signature)
{
    struct command c;

    command_begin(&c, "certifying the boot key", ST_SESSIONS, CC_CERTIFY);
    tb_tpm_put_u32(&c.w, object);
    tb_tpm_put_u32(&c.w, ak);
    command_put_sessions(&c, password, 2);
    tb_tpm_put_2b(&c.w, extra, TB_TPM_DIGEST_BYTES);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL);
    return attestation_run(t, &c, ret_attest, ret_signature);
}

int tb_tpm_boot_key(struct tb_tpm *t, uint32_t mask, uint32_t *ret_handle, struct tb_tpm_part *ret_public)
{
    struct tb_tpm_writer template = {.n = 0};
    uint8_t policy[TB_TPM_DIGEST_BYTES];
    struct tb_tpm_pcrs pcrs;
    struct command c;
    int r = tb_tpm_read_pcrs(t, mask, &pcrs);

    if (r < 0)
        return r;
    tb_tpm_pcrs_policy(mask, &pcrs, policy);
    tb_tpm_key_template(&template, policy);
    command_begin(&c, "making the boot key", ST_SESSIONS, CC_CREATE_PRIMARY);
    tb_tpm_put_u32(&c.w, RH_NULL);
    command_put_sessions(&c, password, 1);
    tb_tpm_put_u16(&c.w, 4); /* TPM2B_SENSITIVE_CREATE: no password, no data */
    tb_tpm_put_u32(&c.w, 0);
    tb_tpm_put_2b(&c.w, template.b, template.n);
    tb_tpm_put_2b(&c.w, NULL, 0); /* outsideInfo */
    tb_tpm_put_u32(&c.w, 0);      /* creationPCR: none */
    r = command_run(t, &c);
    if (r < 0)
        return r;
    *ret_handle = tb_tpm_take_u32(&c.r);
    command_narrow(&c);
    command_take_part(&c, tb_tpm_take_u16(&c.r), ret_public);
    r = command_end(t, &c);
    if (r < 0)
        tb_tpm_flush(t, *ret_handle);
    return r;
}

void tb_tpm_flush(struct tb_tpm *t, uint32_t handle)
{
    uint32_t response = t->response;
    char err[TB_TPM_ERR_MAX];
    struct command c;

    memcpy(err, t->err, sizeof(err));
    command_begin(&c, "flushing", ST_NO_SESSIONS, CC_FLUSH_CONTEXT);
    tb_tpm_put_u32(&c.w, handle);
    (void)command_run(t, &c);
    t->response = response;
    memcpy(t->err, err, sizeof(err));
}

static int policy_session(struct tb_tpm *t, uint32_t mask, uint32_t *ret)
{
    static const uint8_t nonce[16];
    struct command c;
    int r;

    command_begin(&c, "opening a session", ST_NO_SESSIONS, CC_START_AUTH_SESSION);
    tb_tpm_put_u32(&c.w, RH_NULL);
    tb_tpm_put_u32(&c.w, RH_NULL);
    tb_tpm_put_2b(&c.w, nonce, sizeof(nonce)); /* of a session that neither encrypts nor signs */
    tb_tpm_put_2b(&c.w, NULL, 0);
    tb_tpm_put_u8(&c.w, 1); /* TPM_SE_POLICY */
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_NULL);
    tb_tpm_put_u16(&c.w, TB_TPM_ALG_SHA256);
    r = command_run(t, &c);
    if (r < 0)
        return r;
    *ret = tb_tpm_take_u32(&c.r);
    r = command_end(t, &c);
    if (r < 0)
        return r;
    command_begin(&c, "the policy of the PCRs", ST_NO_SESSIONS, CC_POLICY_PCR);
    tb_tpm_put_u32(&c.w, *ret);
    tb_tpm_put_2b(&c.w, NULL, 0); /* of the values as they are */
    tb_tpm_put_selection(&c.w, mask);
    r = command_run(t, &c);
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
    struct command c;
    uint32_t session;
    int r = policy_session(t, mask, &session);

    if (r < 0)
        return r;
    command_begin(&c, "using the boot key", ST_SESSIONS, CC_ECDH_ZGEN);
    tb_tpm_put_u32(&c.w, key);
    command_put_sessions(&c, &session, 1);
    tb_tpm_put_u16(&c.w, 2 * (2 + coordinate)); /* TPM2B_ECC_POINT */
    tb_tpm_put_2b(&c.w, point + 1, coordinate);
    tb_tpm_put_2b(&c.w, point + 1 + coordinate, coordinate);
    r = command_run(t, &c);
    tb_tpm_flush(t, session);
    if (r < 0)
        return r;
    command_narrow(&c);
    (void)tb_tpm_take_u16(&c.r);
    x = tb_tpm_take_2b(&c.r);
    c.r.bad |= x.n > coordinate;
    r = command_end(t, &c);
    if (r < 0)
        return r;
    memset(ret_z, 0, coordinate - x.n);
    memcpy(ret_z + coordinate - x.n, x.p, x.n);
    return 0;
}
