/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/access/caller.h"

#include <openssl/sha.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"

#define TOKEN_PREFIX "tbt_"

int cp_token_make(char out[static CP_TOKEN_CHARS + 1])
{
    _cleanup_key_ struct tb_key k;
    int r = tb_random(&k, sizeof(k));

    if (r < 0)
        return r;
    tb_hex_encode(k.b, sizeof(k.b), stpcpy(out, TOKEN_PREFIX));
    return 0;
}

int cp_token_hash(const char *token, char out[static CP_SHA256_HEX + 1])
{
    uint8_t sum[SHA256_DIGEST_LENGTH];

    if (strlen(token) != CP_TOKEN_CHARS || strncmp(token, TOKEN_PREFIX, 4) != 0 ||
        strspn(token + 4, "0123456789abcdef") != CP_TOKEN_CHARS - 4)
        return -EINVAL;
    SHA256((const uint8_t *)token, CP_TOKEN_CHARS, sum);
    tb_hex_encode(sum, sizeof(sum), out);
    return 0;
}

const char *cp_token_state(const struct cp_token *t, uint64_t now_us)
{
    return t->revoked_us ? "revoked" : t->expires_us <= now_us ? "expired" : "active";
}

const char *cp_bearer(const char *authorization)
{
    const char *s = authorization;

    if (!s || strncasecmp(s, "Bearer ", 7) != 0)
        return NULL;
    s += 7 + strspn(s + 7, " ");
    return *s ? s : NULL;
}

static int caller_fault(char err[static CP_JWT_ERR_MAX], int r, const char *why)
{
    snprintf(err, CP_JWT_ERR_MAX, "%s", why);
    return r;
}

/* The lookup is by hash: what its time tells is of the hash. */
static int caller_find_token(struct cp_store *s, const char *token_sha256, uint64_t now_us,
                             struct cp_token *ret, char err[static CP_JWT_ERR_MAX])
{
    int r = cp_store_find_token(s, token_sha256, ret);

    if (r == -ENOENT)
        return caller_fault(err, -EACCES, "there is no such token");
    if (r < 0)
        return r;
    if (ret->revoked_us)
        return caller_fault(err, -EKEYEXPIRED, "the token was revoked");
    if (ret->expires_us <= now_us)
        return caller_fault(err, -EKEYEXPIRED, "the token is over");
    return 0;
}

struct caller_lookup {
    const char *token_sha256;
    uint64_t now_us;
    struct cp_token token;
    char *err;
};

static int caller_look_up(struct cp_store *s, void *ctx)
{
    struct caller_lookup *l = ctx;

    return caller_find_token(s, l->token_sha256, l->now_us, &l->token, l->err);
}

static int caller_identify_token(struct cp_store *s, uint64_t now_us, struct cp_caller *c,
                                 char err[static CP_JWT_ERR_MAX])
{
    struct caller_lookup l = {.token_sha256 = c->token_sha256, .now_us = now_us, .err = err};
    const struct cp_token *t = &l.token;
    int r = cp_store_transact(s, caller_look_up, &l);

    if (r < 0)
        return r;
    if (cp_scopes_parse(t->scopes, &c->scopes) < 0)
        return caller_fault(err, -EACCES, "the token has a scope of a later version of this program");
    c->kind = CP_CALLER_TOKEN;
    c->expires_us = t->expires_us;
    c->last_used_us = t->last_used_us;
    snprintf(c->actor, sizeof(c->actor), "token:%s", t->name);
    return 0;
}

static bool caller_is_provider(const struct cp_access *a, const char *bearer)
{
    _cleanup_key_ struct tb_key given = {0};

    return a->provider_token && tb_hex_decode(bearer, strlen(bearer), given.b, sizeof(given.b)) == 0 &&
           tb_mem_equal(given.b, a->provider_token->b, sizeof(given.b));
}

bool cp_caller_plausible(const struct cp_access *a, const char *authorization)
{
    const char *bearer = cp_bearer(authorization);
    char hash[CP_SHA256_HEX + 1];

    return bearer && (caller_is_provider(a, bearer) || cp_token_hash(bearer, hash) == 0 ||
                      (a->oidc && strchr(bearer, '.')));
}

int cp_caller_identify(const struct cp_access *a, struct cp_store *s, const char *authorization,
                       uint64_t now_us, struct cp_caller *ret, char err[static CP_JWT_ERR_MAX])
{
    const char *bearer = cp_bearer(authorization);
    struct cp_jwt_person person;
    int r;

    *ret = (struct cp_caller){0};
    if (!bearer)
        return caller_fault(err, -EACCES, "there is no bearer token");
    if (caller_is_provider(a, bearer)) {
        ret->kind = CP_CALLER_PROVIDER_TOKEN;
        ret->scopes = CP_SCOPE_PUBLISHER | CP_SCOPE_REPLACE;
        strcpy(ret->actor, "provider.token");
        return 0;
    }
    if (cp_token_hash(bearer, ret->token_sha256) == 0)
        return caller_identify_token(s, now_us, ret, err);
    if (!a->oidc || !strchr(bearer, '.'))
        return caller_fault(err, -EACCES, "there is no such token");
    r = cp_oidc_identify(a->oidc, bearer, now_us, &person, &ret->scopes, err);
    ret->kind = CP_CALLER_OIDC;
    ret->expires_us = person.expires_us;
    snprintf(ret->actor, sizeof(ret->actor), "oidc:%s", person.subject);
    return r == -EBADMSG ? -EACCES : r;
}

int cp_caller_recheck(struct cp_store *s, const struct cp_caller *c, uint64_t now_us,
                      char err[static CP_JWT_ERR_MAX])
{
    struct cp_token t;

    return c->kind == CP_CALLER_TOKEN ? caller_find_token(s, c->token_sha256, now_us, &t, err) : 0;
}
