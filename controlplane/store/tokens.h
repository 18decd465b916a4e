/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens of people and scripts, by their hash; and the answers that were given to them, by idempotency key.
 * In a transaction. */
#ifndef CP_TOKENS_H
#define CP_TOKENS_H

#include "controlplane/store/store.h"

#define CP_ACTOR_MAX 200
#define CP_SCOPES_TEXT_MAX 80

struct cp_token {
    char name[TB_ID_MAX + 1];
    char token_sha256[CP_SHA256_HEX + 1]; /* the token itself is nowhere */
    char scopes[CP_SCOPES_TEXT_MAX];      /* words with a space between */
    char created_by[CP_ACTOR_MAX + 1];
    uint64_t created_us, expires_us, revoked_us, last_used_us; /* revoked_us 0: it is not */
};

/* -EEXIST: the name is taken, if only by one that is over: a name in the log is one token for ever. */
int cp_store_put_token(struct cp_store *s, const struct cp_token *t);
/* -ENOENT. */
int cp_store_get_token(struct cp_store *s, const char *name, struct cp_token *ret);
int cp_store_find_token(struct cp_store *s, const char *token_sha256, struct cp_token *ret);
/* The first revocation stays. -ENOENT. */
int cp_store_revoke_token(struct cp_store *s, const char *name, uint64_t now_us);
/* One statement: it was used. */
int cp_store_touch_token(struct cp_store *s, const char *name, uint64_t now_us);
/* By name, those behind `after`. */
int cp_store_each_token(struct cp_store *s, const char *after, uint64_t limit,
                        int (*fn)(const struct cp_token *, void *), void *ctx);

#define CP_KEPT_REPLY_MAX (16 * 1024 * 1024) /* an asset of ten thousand versions */

/* Sealed under the idempotency key, of which only the hash is here: an answer may hold a token. */
struct cp_kept_reply {
    char request_sha256[CP_SHA256_HEX + 1];
    unsigned status;
    uint8_t sealed[CP_KEPT_REPLY_MAX];
    size_t len;
};
/* One that is older than since_us is none: -ENOENT. */
int cp_store_get_reply(struct cp_store *s, const char *actor, const char *key_sha256, uint64_t since_us,
                       struct cp_kept_reply *ret);
/* Forgets those that are older than since_us, of everybody. */
int cp_store_put_reply(struct cp_store *s, const char *actor, const char *key_sha256,
                       const struct cp_kept_reply *k, uint64_t now_us, uint64_t since_us);

#endif
