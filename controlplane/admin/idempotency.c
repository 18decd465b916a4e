/* SPDX-License-Identifier: Apache-2.0 */
/* Answers by idempotency key. An answer may hold a token or a code, which are nowhere else but as hashes: it
 * is sealed under the idempotency key, of which only the hash is kept. */
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <string.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/secret.h"
#include "common/units.h"
#include "controlplane/admin/call.h"

#define REPLAY_LIFE_US (86400ULL * TB_USEC_PER_SEC)
#define SEAL_NONCE 12
#define SEAL_TAG 16

static void replay_free_context(EVP_CIPHER_CTX **c)
{
    EVP_CIPHER_CTX_free(*c);
}

/* Of parts with NULs between. */
static void replay_hash(const char *const *parts, size_t n, const char *rest, size_t rest_len,
                        uint8_t out[static SHA256_DIGEST_LENGTH])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();

    memset(out, 0, SHA256_DIGEST_LENGTH);
    if (c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1) {
        for (size_t i = 0; i < n; i++)
            EVP_DigestUpdate(c, parts[i], strlen(parts[i]) + 1);
        EVP_DigestUpdate(c, rest, rest_len);
        EVP_DigestFinal_ex(c, out, NULL);
    }
    EVP_MD_CTX_free(c);
}

void cp_idempotency_hash(const struct cp_call *c, char out[static CP_SHA256_HEX + 1])
{
    uint8_t sum[SHA256_DIGEST_LENGTH];

    replay_hash(NULL, 0, c->rq->idempotency_key, strlen(c->rq->idempotency_key), sum);
    tb_hex_encode(sum, sizeof(sum), out);
}

static void replay_key(const struct cp_call *c, struct tb_key *ret)
{
    const char *const parts[] = {"trustbridge kept answer v1", c->who.actor};

    replay_hash(parts, ARRAY_SIZE(parts), c->rq->idempotency_key, strlen(c->rq->idempotency_key), ret->b);
}

static void replay_request_hash(const struct cp_call *c, char out[static CP_SHA256_HEX + 1])
{
    const char *const parts[] = {c->rq->method, c->rq->path, c->rq->if_match ? c->rq->if_match : ""};
    uint8_t sum[SHA256_DIGEST_LENGTH];

    replay_hash(parts, ARRAY_SIZE(parts), c->rq->body, c->rq->body_len, sum);
    tb_hex_encode(sum, sizeof(sum), out);
}

/* nonce, text, tag. */
static int replay_seal(const struct cp_call *c, const char *text, struct cp_kept_reply *k)
{
    _cleanup_(replay_free_context) EVP_CIPHER_CTX *e = EVP_CIPHER_CTX_new();
    _cleanup_key_ struct tb_key key;
    size_t n = strlen(text);
    int got;

    if (n + SEAL_NONCE + SEAL_TAG > sizeof(k->sealed))
        return -EFBIG;
    replay_key(c, &key);
    if (!e || tb_random(k->sealed, SEAL_NONCE) < 0 ||
        EVP_EncryptInit_ex(e, EVP_aes_256_gcm(), NULL, key.b, k->sealed) != 1 ||
        EVP_EncryptUpdate(e, k->sealed + SEAL_NONCE, &got, (const uint8_t *)text, (int)n) != 1 ||
        EVP_EncryptFinal_ex(e, k->sealed + SEAL_NONCE + n, &got) != 1 ||
        EVP_CIPHER_CTX_ctrl(e, EVP_CTRL_AEAD_GET_TAG, SEAL_TAG, k->sealed + SEAL_NONCE + n) != 1)
        return -EIO;
    k->len = SEAL_NONCE + n + SEAL_TAG;
    return 0;
}

static int replay_open(const struct cp_call *c, struct cp_kept_reply *k, char **ret)
{
    _cleanup_(replay_free_context) EVP_CIPHER_CTX *e = EVP_CIPHER_CTX_new();
    size_t n = k->len - SEAL_NONCE - SEAL_TAG;
    _cleanup_key_ struct tb_key key;
    char *text;
    int got;

    if (k->len < SEAL_NONCE + SEAL_TAG)
        return -EBADMSG;
    text = calloc(1, n + 1);
    if (!text)
        return -ENOMEM;
    replay_key(c, &key);
    if (!e || EVP_DecryptInit_ex(e, EVP_aes_256_gcm(), NULL, key.b, k->sealed) != 1 ||
        EVP_DecryptUpdate(e, (uint8_t *)text, &got, k->sealed + SEAL_NONCE, (int)n) != 1 ||
        EVP_CIPHER_CTX_ctrl(e, EVP_CTRL_AEAD_SET_TAG, SEAL_TAG, k->sealed + SEAL_NONCE + n) != 1 ||
        EVP_DecryptFinal_ex(e, (uint8_t *)text + n, &got) != 1) {
        tb_erase(text, n);
        free(text);
        return -EBADMSG;
    }
    *ret = text;
    return 0;
}

static uint64_t replay_since(const struct cp_call *c)
{
    return c->now_us > REPLAY_LIFE_US ? c->now_us - REPLAY_LIFE_US : 0;
}

int cp_replay(struct cp_store *s, struct cp_call *c)
{
    _cleanup_free_ struct cp_kept_reply *k = malloc(sizeof(*k));
    char key[CP_SHA256_HEX + 1], request[CP_SHA256_HEX + 1];
    _cleanup_erase_string_ char *text = NULL;
    const char *body;
    int r;

    if (!k)
        return -ENOMEM;
    cp_idempotency_hash(c, key);
    replay_request_hash(c, request);
    r = cp_store_get_reply(s, c->who.actor, key, replay_since(c), k);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (strcmp(k->request_sha256, request) != 0)
        return -EEXIST;
    r = replay_open(c, k, &text);
    if (r < 0)
        return r;
    tb_json_freep(&c->answer);
    body = strchr(text, '\n'); /* before it: the ETag */
    if (!body)
        return -EBADMSG;
    snprintf(c->etag, sizeof(c->etag), "%.*s", (int)(body - text), text);
    c->answer = cJSON_Parse(body + 1);
    c->status = k->status;
    c->replayed = true;
    return c->answer ? 1 : -ENOMEM;
}

int cp_keep(struct cp_store *s, const struct cp_call *c, const char *body)
{
    _cleanup_free_ struct cp_kept_reply *k = malloc(sizeof(*k));
    _cleanup_erase_string_ char *text = tb_strf("%s\n%s", c->etag, body);
    char key[CP_SHA256_HEX + 1];
    int r;

    if (!k || !text)
        return -ENOMEM;
    cp_idempotency_hash(c, key);
    replay_request_hash(c, k->request_sha256);
    k->status = c->status;
    r = replay_seal(c, text, k);
    return r < 0 ? r : cp_store_put_reply(s, c->who.actor, key, k, c->now_us, replay_since(c));
}
