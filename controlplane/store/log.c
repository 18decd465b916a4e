/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/chain.h"
#include "common/hex.h"
#include "common/json.h"
#include "common/units.h"
#include "controlplane/store/store_room.h"

/* What a contract was and became, with the CAs of a customer left out. */
#define CHANGE_LINE_MAX 65536

/* -- verdicts ---------------------------------------------------------------------------------- */
int cp_store_add_log(struct cp_store *s, const struct cp_log_entry *e)
{
    return store_run(s,
                     "INSERT INTO log(at_us, contract_id, asset_id, version, hw_id, peer, client_name,"
                     " authorized, reason) VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9)",
                     "uttutttut", e->at_us, e->contract_id, e->asset_id, e->version, e->hw_id, e->peer,
                     e->client_name, (uint64_t)e->authorized, e->reason);
}

#define LOG_COLUMNS "at_us, contract_id, asset_id, version, hw_id, peer, client_name, authorized, reason, id"

static int log_each(struct cp_rows *rows, int (*fn)(const struct cp_log_entry *, void *), void *ctx)
{
    int r;

    while ((r = cp_rows_next(rows)) > 0) {
        struct cp_log_entry e = {.at_us = (uint64_t)cp_rows_int(rows, 0),
                                 .version = (uint64_t)cp_rows_int(rows, 3),
                                 .authorized = cp_rows_int(rows, 7),
                                 .id = (uint64_t)cp_rows_int(rows, 9)};

        CP_ROWS_TEXT(rows, 1, e.contract_id);
        CP_ROWS_TEXT(rows, 2, e.asset_id);
        CP_ROWS_TEXT(rows, 4, e.hw_id);
        CP_ROWS_TEXT(rows, 5, e.peer);
        CP_ROWS_TEXT(rows, 6, e.client_name);
        CP_ROWS_TEXT(rows, 8, e.reason);
        r = fn(&e, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_each_log(struct cp_store *s, uint64_t limit, int (*fn)(const struct cp_log_entry *, void *),
                      void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " LOG_COLUMNS
                         " FROM (SELECT * FROM log ORDER BY id DESC LIMIT $1) AS newest ORDER BY id",
                         "u", limit);

    return r < 0 ? r : log_each(rows, fn, ctx);
}

/* Two texts, so that each has its index. */
int cp_store_page_log(struct cp_store *s, const char *contract_id, uint64_t before, uint64_t limit,
                      int (*fn)(const struct cp_log_entry *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    uint64_t end = before ? before : INT64_MAX;
    int r = *contract_id
                ? cp_sql_query(s->c, &rows,
                               "SELECT " LOG_COLUMNS
                               " FROM log WHERE contract_id=$1 AND id<$2 ORDER BY id DESC LIMIT $3",
                               "tuu", contract_id, end, limit)
                : cp_sql_query(s->c, &rows,
                               "SELECT " LOG_COLUMNS " FROM log WHERE id<$1 ORDER BY id DESC LIMIT $2", "uu",
                               end, limit);

    return r < 0 ? r : log_each(rows, fn, ctx);
}

/* -- changes ----------------------------------------------------------------------------------- */
/* Where the chain stands. */
static int change_last(struct cp_store *s, uint64_t *ret_seq, char prev[static 2 * TB_CHAIN_HASH_BYTES + 1])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    uint8_t hash[TB_CHAIN_HASH_BYTES] = {0};
    char line[CHANGE_LINE_MAX];
    int r = cp_sql_query(s->c, &rows, "SELECT seq, line FROM changes ORDER BY seq DESC LIMIT 1", "");

    if (r == 0)
        r = cp_rows_next(rows);
    *ret_seq = 0;
    if (r > 0) {
        *ret_seq = (uint64_t)cp_rows_int(rows, 0);
        CP_ROWS_TEXT(rows, 1, line);
        r = tb_chain_hash(line, strlen(line), hash);
    }
    if (r < 0)
        return r;
    tb_hex_encode(hash, sizeof(hash), prev);
    return 0;
}

int cp_store_add_change(struct cp_store *s, uint64_t now_us, const char *actor, const char *action,
                        const char *object, const char *const *details)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!o)
        return -ENOMEM;
    for (; details[0]; details += 2)
        if (details[1] && !cJSON_AddStringToObject(o, details[0], details[1]))
            return -ENOMEM;
    return cp_store_add_change_json(s, now_us, actor, action, object, o);
}

int cp_store_add_change_json(struct cp_store *s, uint64_t now_us, const char *actor, const char *action,
                             const char *object, cJSON *details)
{
    char prev[2 * TB_CHAIN_HASH_BYTES + 1], ts[TB_RFC3339_MAX];
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    _cleanup_free_ char *line = NULL;
    uint64_t seq;
    int r = change_last(s, &seq, prev);

    if (r < 0)
        return r;
    tb_json_add_uint(o, "seq", seq + 1);
    cJSON_AddStringToObject(o, "prev", prev);
    cJSON_AddStringToObject(o, "ts", tb_rfc3339_format(now_us, 1, ts));
    cJSON_AddStringToObject(o, "actor", actor);
    cJSON_AddStringToObject(o, "action", action);
    cJSON_AddStringToObject(o, "object", object);
    while (o && details && details->child) {
        cJSON *m = details->child;
        _cleanup_free_ char *name = strdup(m->string);

        if (!name || !cJSON_AddItemToObject(o, name, cJSON_DetachItemViaPointer(details, m)))
            return -ENOMEM;
    }
    line = o ? cJSON_PrintUnformatted(o) : NULL;
    if (!line)
        return -ENOMEM;
    if (strlen(line) >= CHANGE_LINE_MAX)
        return -EFBIG;
    return store_run(s, "INSERT INTO changes VALUES($1,$2,$3)", "uut", seq + 1, now_us, line);
}

int cp_store_last_change(struct cp_store *s, uint64_t *ret_seq, uint64_t *ret_at_us)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT seq, at_us FROM changes ORDER BY seq DESC LIMIT 1", "");

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    *ret_seq = (uint64_t)cp_rows_int(rows, 0);
    *ret_at_us = (uint64_t)cp_rows_int(rows, 1);
    return 0;
}

int cp_store_each_change(struct cp_store *s, uint64_t from, int (*fn)(const char *line, void *), void *ctx)
{
    return cp_store_page_changes(s, from, INT64_MAX, fn, ctx);
}

int cp_store_page_changes(struct cp_store *s, uint64_t from, uint64_t limit,
                          int (*fn)(const char *line, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    char line[CHANGE_LINE_MAX];
    int r = cp_sql_query(s->c, &rows, "SELECT line FROM changes WHERE seq>=$1 ORDER BY seq LIMIT $2", "uu",
                         from, limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        CP_ROWS_TEXT(rows, 0, line);
        r = fn(line, ctx);
        if (r != 0)
            return r;
    }
    return r;
}
