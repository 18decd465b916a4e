/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "controlplane/store/store_room.h"

const char *const cp_mode_names[_CP_MODE_MAX] = {"open", "enrolled", "certificate"};

int cp_store_put_contract(struct cp_store *s, const struct cp_contract *c, bool replace)
{
    int n =
        cp_sql_run(s->c,
                   "INSERT INTO contracts VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$14,$15)"
                   " ON CONFLICT(contract_id) DO UPDATE SET asset_id=$2, version=$3, mode=$4, active=$5,"
                   " reason=$6, expires_us=$7, lease_seconds=$8, max_hw=$9, slot_ttl_s=$10, created_us=$11,"
                   " updated_us=$12, client_ca=$14, attest=$15 WHERE $13=1",
                   "ttututuuuuuuutt", c->contract_id, c->asset_id, c->version, cp_mode_names[c->mode],
                   (uint64_t)c->active, c->reason, c->expires_us, c->lease_seconds, c->max_hw, c->slot_ttl_s,
                   c->created_us, c->updated_us, (uint64_t)replace, c->client_ca, c->attest);

    return n < 0 ? n : n == 0 ? -EEXIST : 0;
}

/* $1: now, or 0: machines are not counted. A serializable transaction that counted them would conflict with
 * each renewal of any of them. */
#define CONTRACT_COLUMNS                                                                                     \
    "contract_id, asset_id, version, mode, active, reason, expires_us, lease_seconds, max_hw, slot_ttl_s,"   \
    " created_us, updated_us, CASE WHEN $1=0 THEN 0 ELSE (SELECT count(*) FROM machines m WHERE"             \
    " m.contract_id=contracts.contract_id AND m.slot_until_us>$1) END, client_ca, attest FROM contracts"

static enum cp_mode contract_mode(const char *name)
{
    for (int m = 0; m < _CP_MODE_MAX; m++)
        if (strcmp(name, cp_mode_names[m]) == 0)
            return (enum cp_mode)m;
    return CP_MODE_ENROLLED; /* one of a later version: the stricter */
}

static void contract_read(struct cp_rows *r, struct cp_contract *c)
{
    char mode[32];

    *c = (struct cp_contract){0};
    CP_ROWS_TEXT(r, 0, c->contract_id);
    CP_ROWS_TEXT(r, 1, c->asset_id);
    c->version = (uint64_t)cp_rows_int(r, 2);
    CP_ROWS_TEXT(r, 3, mode);
    c->mode = contract_mode(mode);
    c->active = cp_rows_int(r, 4);
    CP_ROWS_TEXT(r, 5, c->reason);
    c->expires_us = (uint64_t)cp_rows_int(r, 6);
    c->lease_seconds = (uint64_t)cp_rows_int(r, 7);
    c->max_hw = (uint64_t)cp_rows_int(r, 8);
    c->slot_ttl_s = (uint64_t)cp_rows_int(r, 9);
    c->created_us = (uint64_t)cp_rows_int(r, 10);
    c->updated_us = (uint64_t)cp_rows_int(r, 11);
    c->hw_used = (uint64_t)cp_rows_int(r, 12);
    CP_ROWS_TEXT(r, 13, c->client_ca);
    CP_ROWS_TEXT(r, 14, c->attest);
}

int cp_store_get_contract(struct cp_store *s, const char *contract_id, uint64_t now_us,
                          struct cp_contract *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " CONTRACT_COLUMNS " WHERE contract_id=$2", "ut", now_us,
                         contract_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    contract_read(rows, ret);
    return 0;
}

const char *cp_contract_state(const struct cp_contract *c, uint64_t now_us)
{
    if (!c->active)
        return strcmp(c->reason, "contract_revoked") == 0 ? "revoked" : "denied";
    return c->expires_us && c->expires_us <= now_us ? "expired" : "active";
}

int cp_store_each_contract(struct cp_store *s, uint64_t now_us, int (*fn)(const struct cp_contract *, void *),
                           void *ctx)
{
    const struct cp_contract_page all = {.after = "", .asset_id = "", .state = "", .limit = INT64_MAX};

    return cp_store_page_contracts(s, now_us, &all, fn, ctx);
}

/* The state as cp_contract_state() says it. */
int cp_store_page_contracts(struct cp_store *s, uint64_t now_us, const struct cp_contract_page *p,
                            int (*fn)(const struct cp_contract *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_contract c;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " CONTRACT_COLUMNS " WHERE contract_id>$2 AND ($3='' OR asset_id=$3)"
                         " AND ($4='' OR $4=CASE WHEN active=0 AND reason='contract_revoked' THEN 'revoked'"
                         " WHEN active=0 THEN 'denied' WHEN expires_us<>0 AND expires_us<=$1 THEN 'expired'"
                         " ELSE 'active' END) ORDER BY contract_id LIMIT $5",
                         "utttu", now_us, p->after, p->asset_id, p->state, p->limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        contract_read(rows, &c);
        r = fn(&c, ctx);
        if (r != 0)
            return r;
    }
    return r;
}
