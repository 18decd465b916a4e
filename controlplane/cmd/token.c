/* SPDX-License-Identifier: Apache-2.0 */
/* token add, list, revoke, scopes: beside the database. The first token of an owner is made here; the others
 * may be made by it, over the network. */
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "controlplane/access/caller.h"
#include "controlplane/admin/show.h"
#include "controlplane/cmd/cmd.h"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_token_add_options[] = {
    TB_OPTION(0, "scope", "SCOPE", TB_OPTION_LIST, scopes, CP_SCOPES_WORDS "; may be repeated (required)"),
    TB_OPTION(0, "expires", "TIME", TB_OPTION_CALL, expires_us, "end of the token, RFC 3339",
              .set = cp_option_time, .want = "a time like 2026-12-31T00:00:00Z"),
    TB_OPTION(0, "expires-in", "DURATION", TB_OPTION_CALL, expires_us,
              "end of the token from now (default 90d, at most 400d)", .set = cp_option_from_now,
              .want = "a duration like 12h or 30d"),
    CP_COMMON_ROWS,
};

struct token_job {
    const struct cp_options *o;
    struct cp_token token;
};

static int token_note(struct cp_store *s, const struct token_job *j, const char *action)
{
    char actor[64], end[TB_RFC3339_MAX];

    return cp_change(s, tb_now_realtime_us(), cp_actor(actor), action, j->o->operand, "scopes",
                     j->token.scopes, "expires_at", tb_rfc3339_format(j->token.expires_us, 0, end));
}

static int token_put(struct cp_store *s, void *ctx)
{
    const struct token_job *j = ctx;
    int r = cp_store_put_token(s, &j->token);

    return r < 0 ? r : token_note(s, j, "token.create");
}

/* 0, or an exit code. */
static int token_from_options(const struct cp_options *o, struct cp_token *t)
{
    uint64_t now = tb_now_realtime_us();
    unsigned scopes = 0, one;

    for (size_t i = 0; i < o->scopes.n; i++) {
        if (cp_scopes_parse(o->scopes.v[i], &one) < 0)
            return cp_fail(o, TB_EXIT_USAGE, "--scope: " CP_SCOPES_WORDS ", not '%s'", o->scopes.v[i]);
        scopes |= one;
    }
    if (!scopes)
        return cp_fail(o, TB_EXIT_USAGE, "--scope is missing: " CP_SCOPES_WORDS);
    t->created_us = now;
    t->expires_us = o->expires_us ? o->expires_us : now + CP_TOKEN_LIFE_S * TB_USEC_PER_SEC;
    if (t->expires_us <= now || t->expires_us > now + CP_TOKEN_LIFE_S_MAX * TB_USEC_PER_SEC + TB_USEC_PER_SEC)
        return cp_fail(o, TB_EXIT_USAGE, "the end of a token is in the next 400 days");
    strcpy(t->name, o->operand);
    cp_scopes_text(scopes, t->scopes);
    cp_actor(t->created_by);
    return 0;
}

int cp_run_token_add(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct token_job j = {.o = o};
    char text[CP_TOKEN_CHARS + 1];
    int r = token_from_options(o, &j.token);

    if (r == 0 && (cp_token_make(text) < 0 || cp_token_hash(text, j.token.token_sha256) < 0))
        r = cp_fail(o, TB_EXIT_IOERR, "no random numbers for a token");
    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, token_put, &j);
    if (r == -EEXIST)
        r = cp_fail(o, TB_EXIT_USAGE, "there is, or was, a token %s; take another name", o->operand);
    else if (r < 0)
        r = cp_fail_store(o, s, r);
    else
        r = puts(text) >= 0 && fflush(stdout) == 0 ? TB_EXIT_OK
                                                   : cp_fail(o, TB_EXIT_IOERR, "cannot write the token");
    tb_erase(text, sizeof(text));
    return r;
}

static int token_end(struct cp_store *s, void *ctx)
{
    struct token_job *j = ctx;
    int r = cp_store_revoke_token(s, j->o->operand, tb_now_realtime_us());

    if (r == 0)
        r = cp_store_get_token(s, j->o->operand, &j->token);
    return r < 0 ? r : token_note(s, j, "token.revoke");
}

int cp_run_token_revoke(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct token_job j = {.o = o};
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, token_end, &j);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no token %s; `token list` names them", o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

/* -- listings ---------------------------------------------------------------------------------- */
static int token_list_row(const struct cp_token *t, void *ctx)
{
    char end[TB_RFC3339_MAX], used[TB_RFC3339_MAX];
    uint64_t now = tb_now_realtime_us();
    cJSON *array = ctx, *o;

    if (!array) {
        printf("%-30s %-8s %-26s %-20s %-20s %s\n", t->name, cp_token_state(t, now), t->scopes,
               tb_rfc3339_format(t->expires_us, 0, end),
               t->last_used_us ? tb_rfc3339_format(t->last_used_us, 0, used) : "never", t->created_by);
        return 0;
    }
    o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(array, o))
        return -ENOMEM;
    cp_show_token(o, t, now);
    return 0;
}

static int token_print(const struct cp_options *o, const cJSON *array)
{
    _cleanup_free_ char *text = array ? cJSON_Print(array) : NULL;

    if (array && !text)
        return cp_fail(o, TB_EXIT_IOERR, "out of memory");
    if (text)
        puts(text);
    return fflush(stdout) == 0 ? TB_EXIT_OK
                               : cp_fail(o, TB_EXIT_IOERR, "cannot write to stdout: %s", strerror(errno));
}

int cp_run_token_list(const struct cp_options *o)
{
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    if (!o->json)
        printf("%-30s %-8s %-26s %-20s %-20s %s\n", "TOKEN", "STATE", "SCOPES", "EXPIRES", "LAST USED", "BY");
    r = cp_store_each_token(s, "", INT64_MAX, token_list_row, array);
    return r < 0 ? cp_fail_store(o, s, r) : token_print(o, array);
}

int cp_run_token_scopes(const struct cp_options *o)
{
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    char scopes[CP_SCOPES_TEXT_MAX];

    for (int i = 0; i < _CP_CALL_MAX; i++) {
        const struct cp_call_row *row = &cp_calls[i];
        cJSON *j = array ? cJSON_CreateObject() : NULL;

        cp_scopes_text(row->scopes, scopes);
        if (!j) {
            printf("%-20s %-7s %-48s %s\n", row->operation, row->method, row->path, scopes);
            continue;
        }
        cJSON_AddItemToArray(array, j);
        cJSON_AddStringToObject(j, "operation", row->operation);
        cJSON_AddStringToObject(j, "method", row->method);
        cJSON_AddStringToObject(j, "path", row->path);
        cp_show_scopes(j, scopes);
    }
    return token_print(o, array);
}
