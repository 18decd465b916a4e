/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/attest.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#include "authorize/maa.h"
#include "common/fdpass.h"
#include "common/hex.h"
#include "common/io.h"
#include "common/json.h"

/* A TPM that is busy is asked again for a while, and a slow one takes seconds. */
#define EVIDENCE_TIMEOUT_MS 20000

static char *attest_socket(const struct tb_config *cfg)
{
    return tb_path_join(cfg->run_dir, "tb-attest.sock");
}

char *authorize_attest_offer(const struct tb_config *cfg)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *path = attest_socket(cfg);
    cJSON *offer = cJSON_AddArrayToObject(o, "offer"), *word;

    if (!path || !offer || tb_json_add_uint(o, "v", 1) < 0)
        return NULL;
    if (access(path, F_OK) < 0)
        return cJSON_AddStringToObject(o, "why", "tb-attest.socket is not active on this machine")
                   ? cJSON_PrintUnformatted(o)
                   : NULL;
    word = cJSON_CreateString("tpm2");
    return word && cJSON_AddItemToArray(offer, word) ? cJSON_PrintUnformatted(o) : NULL;
}

static char *attest_question(const struct tb_config *cfg, const char *hw_id,
                             const struct authorize_challenge *c)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *pcrs = cJSON_AddArrayToObject(o, "challenge_pcrs"), *n;

    for (unsigned i = 0; pcrs && i < 16; i++) {
        if (!(c->pcrs & 1U << i))
            continue;
        n = cJSON_CreateNumber(i);
        if (!n || !cJSON_AddItemToArray(pcrs, n))
            return NULL;
    }
    return pcrs && cJSON_AddStringToObject(o, "challenge", c->hex) &&
                   cJSON_AddStringToObject(o, "contract_id", cfg->contract_id) &&
                   cJSON_AddStringToObject(o, "asset_id", cfg->asset_id) &&
                   cJSON_AddStringToObject(o, "hw_id", hw_id)
               ? cJSON_PrintUnformatted(o)
               : NULL;
}

static int attest_fail(char *err, int r, const char *what, const char *why)
{
    snprintf(err, AUTHORIZE_ATTEST_ERR_MAX, "%s: %s", what, why);
    return r;
}

/* One message each way. */
static ssize_t attest_talk(int sock, const char *question, char *answer, size_t room)
{
    struct pollfd p = {.fd = sock, .events = POLLIN};
    int r;

    if (send(sock, question, strlen(question), MSG_NOSIGNAL) < 0)
        return -errno;
    do
        r = poll(&p, 1, EVIDENCE_TIMEOUT_MS);
    while (r < 0 && errno == EINTR);
    if (r <= 0)
        return r < 0 ? -errno : -ETIMEDOUT;
    r = (int)recv(sock, answer, room, MSG_TRUNC);
    return r < 0 ? -errno : r == 0 ? -EPIPE : (size_t)r > room ? -EMSGSIZE : r;
}

/* tb-attest says itself why it could not. */
static int attest_judge(const char *answer, size_t len, char *err)
{
    _cleanup_json_ cJSON *o = NULL;
    char why[TB_JSON_ERR_MAX];
    const char *s;

    if (tb_json_parse(answer, len, TB_EVIDENCE_MAX, &o, why) < 0 || !cJSON_IsObject(o))
        return attest_fail(err, -EBADMSG, "tb-attest's answer", "is not JSON");
    if (tb_json_get_string(o, "error", &s, why) == 0)
        return attest_fail(err, -EPROTO, "this machine can make no evidence", s);
    return 0;
}

/* For what the TPM signed, and no other request. */
static int attest_add_token(const struct tb_config *cfg, const char *hw_id,
                            const struct authorize_challenge *c, char **evidence, char *err)
{
    const struct tb_attest_subject who = {cfg->contract_id, cfg->asset_id, hw_id};
    uint8_t challenge[TB_CHALLENGE_BYTES], extra[TB_TPM_DIGEST_BYTES];

    if (!*c->maa)
        return 0;
    if (tb_hex_decode(c->hex, strlen(c->hex), challenge, sizeof(challenge)) < 0 ||
        tb_attest_extra(challenge, &who, extra) < 0)
        return attest_fail(err, -EINVAL, "evidence", "the challenge is none");
    return authorize_maa_add(cfg, c->maa, extra, evidence, err);
}

int authorize_attest_evidence(const struct tb_config *cfg, const char *hw_id,
                              const struct authorize_challenge *c, char **ret,
                              char err[static AUTHORIZE_ATTEST_ERR_MAX])
{
    _cleanup_free_ char *path = attest_socket(cfg), *question = attest_question(cfg, hw_id, c),
                        *answer = malloc(TB_EVIDENCE_MAX + 1);
    _cleanup_close_ int sock = -1;
    ssize_t n;

    if (!path || !question || !answer)
        return attest_fail(err, -ENOMEM, "evidence", "out of memory");
    sock = tb_unix_connect(path, SOCK_SEQPACKET);
    if (sock < 0)
        return attest_fail(err, sock, path,
                           sock == -ENOENT || sock == -ECONNREFUSED
                               ? "no program listens; is tb-attest.socket active?"
                               : strerror(-sock));
    n = attest_talk(sock, question, answer, TB_EVIDENCE_MAX);
    if (n < 0)
        return attest_fail(err, (int)n, "tb-attest did not answer",
                           n == -ETIMEDOUT ? "it took too long" : strerror((int)-n));
    answer[n] = '\0';
    if (attest_judge(answer, (size_t)n, err) < 0)
        return -EPROTO;
    n = attest_add_token(cfg, hw_id, c, &answer, err);
    if (n < 0)
        return (int)n;
    *ret = TAKE_PTR(answer);
    return 0;
}
