/* SPDX-License-Identifier: Apache-2.0 */
/* Who calls, by the bearer token: one of this control plane, the old token of the data directory, or one of
 * an OpenID provider. */
#ifndef CP_CALLER_H
#define CP_CALLER_H

#include "common/secret.h"
#include "controlplane/access/oidc.h"
#include "controlplane/access/scope.h"

#define CP_TOKEN_CHARS 68 /* "tbt_" and 64 hex digits: 256 random bits */
#define CP_TOKEN_LIFE_S (90 * 86400ULL)
#define CP_TOKEN_LIFE_S_MAX (400 * 86400ULL)
#define CP_TOKEN_TOUCH_US 300000000ULL

/* 0 or -errno. */
int cp_token_make(char out[static CP_TOKEN_CHARS + 1]);
/* What is kept of it: as it is random, one SHA-256 is as good as any. -EINVAL: it is none. */
int cp_token_hash(const char *token, char out[static CP_SHA256_HEX + 1]);
const char *cp_token_state(const struct cp_token *t, uint64_t now_us);

enum cp_caller_kind { CP_CALLER_TOKEN, CP_CALLER_OIDC, CP_CALLER_PROVIDER_TOKEN };
struct cp_caller {
    enum cp_caller_kind kind;
    char actor[CP_ACTOR_MAX + 1]; /* in the log of changes: "token:NAME", "oidc:SUBJECT", "provider.token" */
    unsigned scopes;
    uint64_t expires_us;                  /* 0: never */
    char token_sha256[CP_SHA256_HEX + 1]; /* of CP_CALLER_TOKEN */
    uint64_t last_used_us;
};

/* Who may be here. oidc NULL: nobody's provider. */
struct cp_access {
    const struct tb_key *provider_token;
    struct cp_oidc *oidc;
};

/* "Bearer X": X. NULL: there is none. */
const char *cp_bearer(const char *authorization);

/* Whether it could be good, as far as can be told without looking: for a refusal before the body. */
bool cp_caller_plausible(const struct cp_access *a, const char *authorization);

/* 0; -EACCES no such token; -EKEYEXPIRED it is over; -EAGAIN the identity provider does not answer: a reason
 * in err. Else a failure of the store. Not in a transaction: an identity provider may take its time. */
int cp_caller_identify(const struct cp_access *a, struct cp_store *s, const char *authorization,
                       uint64_t now_us, struct cp_caller *ret, char err[static CP_JWT_ERR_MAX]);
/* Whether a token is still good, in the transaction of what it does. As above. */
int cp_caller_recheck(struct cp_store *s, const struct cp_caller *c, uint64_t now_us,
                      char err[static CP_JWT_ERR_MAX]);

#endif
