/* SPDX-License-Identifier: Apache-2.0 */
/* tokens, and who the caller is */
#include <string.h>

#include "common/units.h"
#include "controlplane/admin/call.h"

int cp_admin_whoami(struct cp_store *s, struct cp_call *c)
{
    static const char *const kinds[] = {"token", "oidc", "provider_token"};
    char scopes[CP_SCOPES_TEXT_MAX];
    cJSON *o;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r < 0)
        return r;
    o = cp_say(c, 200);
    cJSON_AddStringToObject(o, "name", c->who.actor);
    cJSON_AddStringToObject(o, "kind", kinds[c->who.kind]);
    cp_show_scopes(o, cp_scopes_text(c->who.scopes, scopes));
    cp_show_time(o, "expires_at", c->who.expires_us);
    return 0;
}

static int token_row(const struct cp_token *t, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_token(o, t, l->c->now_us);
        snprintf(l->last, sizeof(l->last), "%s", t->name);
    }
    return r;
}

int cp_admin_token_list(struct cp_store *s, struct cp_call *c)
{
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after");

    if (r == 0)
        r = cp_listing_begin(c, "tokens", &l);
    return r < 0 ? r
                 : cp_listing_end(
                       &l, cp_store_each_token(s, cp_query_text(c, "after"), l.limit + 1, token_row, &l));
}

static int token_apply_scopes(struct cp_call *c, char out[static CP_SCOPES_TEXT_MAX])
{
    const cJSON *a = tb_json_member(c->body, "scopes"), *one;
    unsigned scopes = 0, scope;

    cJSON_ArrayForEach (one, a) {
        /* one word each: a text of several would be parsed, too */
        if (!cJSON_IsString(one) || strpbrk(one->valuestring, " \t") ||
            cp_scopes_parse(one->valuestring, &scope) < 0 || scopes & scope)
            return cp_refuse_body(c, "scopes has one that is no scope, or is there twice");
        scopes |= scope;
    }
    if (!cJSON_IsArray(a) || scopes == 0)
        return cp_refuse_body(c, "scopes is not an array of " CP_SCOPES_WORDS);
    cp_scopes_text(scopes, out);
    return 0;
}

static int token_apply(struct cp_call *c, struct cp_token *t)
{
    int r = cp_body_only(c, "name", "scopes", "expires_at");

    if (r == 0)
        r = cp_body_id(c, "name", &cp_plain_id, NULL, t->name, sizeof(t->name));
    if (r == 0)
        r = token_apply_scopes(c, t->scopes);
    if (r == 0)
        r = cp_body_time(c, c->body, "expires_at", false, &t->expires_us);
    if (r == 0 &&
        (t->expires_us <= c->now_us || t->expires_us > c->now_us + CP_TOKEN_LIFE_S_MAX * TB_USEC_PER_SEC))
        r = cp_refuse_body(c, "expires_at is not in the next 400 days");
    return r;
}

int cp_admin_token_create(struct cp_store *s, struct cp_call *c)
{
    struct cp_token t = {.created_us = c->now_us,
                         .expires_us = c->now_us + CP_TOKEN_LIFE_S * TB_USEC_PER_SEC};
    char text[CP_TOKEN_CHARS + 1];
    cJSON *o, *facts;
    int r = token_apply(c, &t);

    if (r < 0)
        return r;
    snprintf(t.created_by, sizeof(t.created_by), "%s", c->who.actor);
    r = cp_token_make(text);
    if (r == 0)
        r = cp_token_hash(text, t.token_sha256);
    if (r == 0)
        r = cp_store_put_token(s, &t);
    if (r == -EEXIST)
        r = cp_refuse(c, 409, "token_exists",
                      "there is, or was, a token %s; take another name: one in the log is of one token",
                      t.name);
    if (r == 0) {
        o = cp_say(c, 201);
        cJSON_AddStringToObject(o, "token", text);
        cJSON_AddStringToObject(o, "name", t.name);
        cp_show_scopes(o, t.scopes);
        cp_show_time(o, "expires_at", t.expires_us);
        facts = cJSON_CreateObject();
        cp_show_token(facts, &t, c->now_us);
        r = cp_note(s, c, "token.create", t.name, NULL, facts);
    }
    tb_erase(text, sizeof(text));
    return r;
}

int cp_admin_token_revoke(struct cp_store *s, struct cp_call *c)
{
    struct cp_token was, is;
    cJSON *before, *o;
    int r = tb_id_valid(c->arg[0]) ? cp_store_get_token(s, c->arg[0], &was) : -ENOENT;

    if (r == 0)
        r = cp_store_revoke_token(s, c->arg[0], c->now_us);
    if (r == 0)
        r = cp_store_get_token(s, c->arg[0], &is);
    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "token", c->arg[0]) : r;
    before = cJSON_CreateObject();
    cp_show_token(before, &was, c->now_us);
    o = cp_say(c, 200);
    cp_show_token(o, &is, c->now_us);
    return o ? cp_note(s, c, "token.revoke", c->arg[0], before, NULL) : -ENOMEM;
}
