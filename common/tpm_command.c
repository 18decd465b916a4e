/* SPDX-License-Identifier: Apache-2.0 */
#include "common/tpm_command.h"

#include <string.h>

#include "common/units.h"

/* Part 2, 6: response codes. */
#define RS_PASSWORD 0x40000009U
#define RC_HANDLE 0x08BU      /* and the number of the handle in bits 8 to 10 */
#define RC_POLICY_FAIL 0x09DU /* and the number of the session */
#define RC_YIELDED 0x908U
#define RC_RETRY 0x922U
#define RC_FORMAT_ONE 0x080U
#define RC_FORMAT_ONE_MASK 0x0BFU
#define HEADER_BYTES 10
#define BUSY_TRIES 5
#define BUSY_PAUSE_MS 50

const uint32_t tb_tpm_password[2] = {RS_PASSWORD, RS_PASSWORD};

int tb_tpm_fail(struct tb_tpm *t, int r, const char *what, const char *why)
{
    snprintf(t->err, sizeof(t->err), "the TPM: %s: %s", what, why);
    return r;
}

void tb_tpm_command_begin(struct tb_tpm_command *c, const char *what, uint16_t tag, uint32_t code)
{
    c->what = what;
    c->w.n = 0;
    c->w.bad = false;
    tb_tpm_put_u16(&c->w, tag);
    tb_tpm_put_u32(&c->w, 0);
    tb_tpm_put_u32(&c->w, code);
}

/* One authorisation for each session: an empty tb_tpm_password, or a policy. */
void tb_tpm_command_put_sessions(struct tb_tpm_command *c, const uint32_t *sessions, size_t n)
{
    tb_tpm_put_u32(&c->w, (uint32_t)(n * (4 + 2 + 1 + 2)));
    for (size_t i = 0; i < n; i++) {
        tb_tpm_put_u32(&c->w, sessions[i]);
        tb_tpm_put_2b(&c->w, NULL, 0); /* nonce */
        tb_tpm_put_u8(&c->w, 1);       /* continueSession */
        tb_tpm_put_2b(&c->w, NULL, 0); /* tb_tpm_password, HMAC */
    }
}

/* At least n bytes of the answer. The device gives it whole, a socket may not. */
static int command_fill(struct tb_tpm *t, struct tb_tpm_command *c, size_t *have, size_t n)
{
    while (*have < n) {
        ssize_t k = read(t->fd, c->answer + *have, sizeof(c->answer) - *have);

        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return tb_tpm_fail(t, k < 0 ? -errno : -EPIPE, c->what, k < 0 ? strerror(errno) : "no answer");
        *have += (size_t)k;
    }
    return 0;
}

static int command_send(struct tb_tpm *t, struct tb_tpm_command *c)
{
    const uint32_t size = (uint32_t)c->w.n;
    ssize_t k;

    for (int i = 0; i < 4; i++)
        c->w.b[2 + i] = (uint8_t)(size >> (24 - 8 * i));
    do
        k = write(t->fd, c->w.b, c->w.n); /* whole: the device takes it at once */
    while (k < 0 && errno == EINTR);
    if (k < 0)
        return tb_tpm_fail(t, -errno, c->what, strerror(errno));
    return (size_t)k == c->w.n ? 0 : tb_tpm_fail(t, -EIO, c->what, "the command was cut short");
}

static int command_once(struct tb_tpm *t, struct tb_tpm_command *c)
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
        return tb_tpm_fail(t, -EBADMSG, c->what, "a malformed answer");
    r = command_fill(t, c, &have, size);
    c->r = (struct tb_tpm_reader){.p = c->answer + HEADER_BYTES, .n = size - HEADER_BYTES};
    return r;
}

static bool response_is(uint32_t response, uint32_t code)
{
    return (response & RC_FORMAT_ONE) && (response & RC_FORMAT_ONE_MASK) == code;
}

static int command_refused(struct tb_tpm *t, const struct tb_tpm_command *c)
{
    char code[40];

    if (t->response == RC_YIELDED || t->response == RC_RETRY)
        return tb_tpm_fail(t, -EBUSY, c->what, "the TPM is busy");
    if (response_is(t->response, RC_POLICY_FAIL))
        return tb_tpm_fail(t, -EPERM, c->what, "this boot's measurements are not those that the key is for");
    if (response_is(t->response, RC_HANDLE))
        return tb_tpm_fail(t, -ENOKEY, c->what, "there is no such object");
    snprintf(code, sizeof(code), "refused with response code 0x%x", t->response);
    return tb_tpm_fail(t, -EPROTO, c->what, code);
}

int tb_tpm_command_run(struct tb_tpm *t, struct tb_tpm_command *c)
{
    int r;

    if (c->w.bad)
        return tb_tpm_fail(t, -EMSGSIZE, c->what, "the command is too long");
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
void tb_tpm_command_narrow(struct tb_tpm_command *c)
{
    uint32_t n = tb_tpm_take_u32(&c->r);

    if (n > c->r.n)
        c->r.bad = true;
    else
        c->r.n = n;
}

int tb_tpm_command_end(struct tb_tpm *t, const struct tb_tpm_command *c)
{
    return c->r.bad ? tb_tpm_fail(t, -EBADMSG, c->what, "a malformed answer") : 0;
}

void tb_tpm_command_take_part(struct tb_tpm_command *c, size_t n, struct tb_tpm_part *ret)
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
