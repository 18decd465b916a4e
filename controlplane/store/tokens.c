/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/tokens.h"

#include "controlplane/store/store_room.h"

#define TOKEN_COLUMNS                                                                                        \
    "name, token_sha256, scopes, created_us, expires_us, revoked_us, last_used_us, created_by FROM tokens"

static void token_read(struct cp_rows *r, struct cp_token *t)
{
    *t = (struct cp_token){.created_us = (uint64_t)cp_rows_int(r, 3),
                           .expires_us = (uint64_t)cp_rows_int(r, 4),
                           .revoked_us = (uint64_t)cp_rows_int(r, 5),
                           .last_used_us = (uint64_t)cp_rows_int(r, 6)};
    CP_ROWS_TEXT(r, 0, t->name);
    CP_ROWS_TEXT(r, 1, t->token_sha256);
    CP_ROWS_TEXT(r, 2, t->scopes);
    CP_ROWS_TEXT(r, 7, t->created_by);
}

static int token_read_one(struct cp_rows *rows, struct cp_token *ret)
{
    int r = cp_rows_next(rows);

    if (r > 0)
        token_read(rows, ret);
    return r > 0 ? 0 : r == 0 ? -ENOENT : r;
}

int cp_store_put_token(struct cp_store *s, const struct cp_token *t)
{
    int n = cp_sql_run(s->c, "INSERT INTO tokens VALUES($1,$2,$3,$4,$5,0,0,$6) ON CONFLICT(name) DO NOTHING",
                       "tttuut", t->name, t->token_sha256, t->scopes, t->created_us, t->expires_us,
                       t->created_by);

    return n < 0 ? n : n == 0 ? -EEXIST : 0;
}

int cp_store_get_token(struct cp_store *s, const char *name, struct cp_token *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " TOKEN_COLUMNS " WHERE name=$1", "t", name);

    return r < 0 ? r : token_read_one(rows, ret);
}

int cp_store_find_token(struct cp_store *s, const char *token_sha256, struct cp_token *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " TOKEN_COLUMNS " WHERE token_sha256=$1", "t", token_sha256);

    return r < 0 ? r : token_read_one(rows, ret);
}

int cp_store_revoke_token(struct cp_store *s, const char *name, uint64_t now_us)
{
    int n = cp_sql_run(s->c,
                       "UPDATE tokens SET revoked_us=CASE WHEN revoked_us=0 THEN $2 ELSE revoked_us END"
                       " WHERE name=$1",
                       "tu", name, now_us);

    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}

int cp_store_touch_token(struct cp_store *s, const char *name, uint64_t now_us)
{
    return store_run(s, "UPDATE tokens SET last_used_us=$2 WHERE name=$1 AND last_used_us<$2", "tu", name,
                     now_us);
}

int cp_store_each_token(struct cp_store *s, const char *after, uint64_t limit,
                        int (*fn)(const struct cp_token *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_token t;
    int r = cp_sql_query(s->c, &rows, "SELECT " TOKEN_COLUMNS " WHERE name>$1 ORDER BY name LIMIT $2", "tu",
                         after, limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        token_read(rows, &t);
        r = fn(&t, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

/* -- answers that were given ------------------------------------------------------------------- */
int cp_store_get_reply(struct cp_store *s, const char *actor, const char *key_sha256, uint64_t since_us,
                       struct cp_kept_reply *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT request_sha256, status, sealed FROM replies"
                         " WHERE actor=$1 AND key_sha256=$2 AND created_us>=$3",
                         "ttu", actor, key_sha256, since_us);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    CP_ROWS_TEXT(rows, 0, ret->request_sha256);
    ret->status = (unsigned)cp_rows_int(rows, 1);
    return cp_rows_blob(rows, 2, ret->sealed, sizeof(ret->sealed), &ret->len);
}

int cp_store_put_reply(struct cp_store *s, const char *actor, const char *key_sha256,
                       const struct cp_kept_reply *k, uint64_t now_us, uint64_t since_us)
{
    int r = store_run(s, "DELETE FROM replies WHERE created_us<$1", "u", since_us);

    return r < 0 ? r
                 : store_run(s, "INSERT INTO replies VALUES($1,$2,$3,$4,$5,$6)", "tttubu", actor, key_sha256,
                             k->request_sha256, (uint64_t)k->status, k->sealed, k->len, now_us);
}
