/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/units.h"
#include "controlplane/store/store_room.h"

/* Whether another machine may have a slot. Only asked by one that has none: a renewal reads its own row
 * alone, and meets nobody in a serializable transaction. */
static int machine_find_room(struct cp_store *s, const struct cp_contract *c, uint64_t now_us)
{
    int64_t taken = 0;
    int r;

    if (c->max_hw == 0)
        return 0;
    r = cp_sql_int(s->c, &taken, 0, "SELECT count(*) FROM machines WHERE contract_id=$1 AND slot_until_us>$2",
                   "tu", c->contract_id, now_us);
    return r < 0 ? r : (uint64_t)taken < c->max_hw ? 0 : -EDQUOT;
}

int cp_store_take_slot(struct cp_store *s, const struct cp_contract *c, const char *hw_id,
                       const char *identity, uint64_t now_us)
{
    uint64_t until = now_us + (c->lease_seconds + c->slot_ttl_s) * TB_USEC_PER_SEC;
    _cleanup_rows_ struct cp_rows *rows = NULL;
    bool has_slot = false;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT slot_until_us, expelled_us FROM machines WHERE contract_id=$1 AND hw_id=$2",
                         "tt", c->contract_id, hw_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r < 0)
        return r;
    if (r > 0 && cp_rows_int(rows, 1) != 0)
        return -EACCES;
    has_slot = r > 0 && (uint64_t)cp_rows_int(rows, 0) > now_us;
    rows = cp_rows_free(rows);
    r = has_slot ? 0 : machine_find_room(s, c, now_us);
    if (r < 0)
        return r;
    return store_run(s,
                     "INSERT INTO machines VALUES($1,$2,$3,$3,$4,$5,0) ON CONFLICT(contract_id, hw_id)"
                     " DO UPDATE SET last_us=$3, slot_until_us=$4, identity=$5",
                     "ttuut", c->contract_id, hw_id, now_us, until, identity);
}

static int machine_drop_versions(struct cp_store *s, const char *contract_id, const char *hw_id,
                                 const struct cp_asset *current, uint64_t held)
{
    return store_run(s,
                     "DELETE FROM machine_versions WHERE contract_id=$1 AND hw_id=$2 AND asset_id=$3"
                     " AND version<>$4 AND version<>$5",
                     "tttuu", contract_id, hw_id, current->asset_id, current->version, held);
}

int cp_store_hold_versions(struct cp_store *s, const char *contract_id, const char *hw_id,
                           const struct cp_asset *current, uint64_t held, bool *ret)
{
    bool has_current = false, has_held = false, has_others = false;
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(
        s->c, &rows, "SELECT version FROM machine_versions WHERE contract_id=$1 AND hw_id=$2 AND asset_id=$3",
        "ttt", contract_id, hw_id, current->asset_id);

    while (r >= 0 && (r = cp_rows_next(rows)) > 0) {
        uint64_t version = (uint64_t)cp_rows_int(rows, 0);

        has_current |= version == current->version;
        has_held |= version == held;
        has_others |= version != current->version && version != held;
    }
    rows = cp_rows_free(rows);
    *ret = has_held && held != current->version;
    if (r == 0 && !has_current)
        r = store_run(s, "INSERT INTO machine_versions VALUES($1,$2,$3,$4)", "tttu", contract_id, hw_id,
                      current->asset_id, current->version);
    /* Only what it says itself tells that it holds the others no more. */
    if (r == 0 && has_others && (has_held || held == current->version))
        r = machine_drop_versions(s, contract_id, hw_id, current, held);
    return r;
}

/* A machine that is gone may come back with another TPM. */
static int machine_drop_attested(struct cp_store *s, const char *contract_id)
{
    int r =
        store_run(s,
                  "DELETE FROM machine_attested WHERE contract_id=$1 AND NOT EXISTS(SELECT 1 FROM machines m"
                  " WHERE m.contract_id=$1 AND m.hw_id=machine_attested.hw_id)",
                  "t", contract_id);

    return r < 0 ? r
                 : store_run(s,
                             "DELETE FROM machine_reports WHERE contract_id=$1 AND NOT EXISTS(SELECT 1 FROM"
                             " machines m WHERE m.contract_id=$1 AND m.hw_id=machine_reports.hw_id)",
                             "t", contract_id);
}

int cp_store_forget_machines(struct cp_store *s, const char *contract_id, const char *hw_id)
{
    int kept = 0, n = store_run(s,
                                "DELETE FROM machine_versions WHERE contract_id=$1 AND EXISTS(SELECT 1 FROM"
                                " machines m WHERE m.contract_id=$1 AND m.hw_id=machine_versions.hw_id"
                                " AND m.expelled_us=0 AND (m.hw_id=$2 OR ($2 IS NULL AND m.identity='')))",
                                "tt", contract_id, hw_id);

    if (n < 0)
        return n;
    if (!hw_id)
        kept = cp_sql_run(s->c,
                          "UPDATE machines SET slot_until_us=0 WHERE contract_id=$1 AND expelled_us=0"
                          " AND identity<>''",
                          "t", contract_id);
    if (kept < 0)
        return kept;
    n = cp_sql_run(s->c,
                   "DELETE FROM machines WHERE contract_id=$1 AND expelled_us=0"
                   " AND (hw_id=$2 OR ($2 IS NULL AND identity=''))",
                   "tt", contract_id, hw_id);
    if (n > 0) {
        int r = machine_drop_attested(s, contract_id);

        n = r < 0 ? r : n;
    }
    return n < 0 ? n : n + kept;
}

int cp_store_forget_identities(struct cp_store *s, const char *contract_id)
{
    int r = store_run(s, "DELETE FROM machine_versions WHERE contract_id=$1", "t", contract_id);

    if (r == 0)
        r = store_run(s, "DELETE FROM machines WHERE contract_id=$1 AND expelled_us=0", "t", contract_id);
    return r < 0 ? r : machine_drop_attested(s, contract_id);
}

#define MACHINE_COLUMNS                                                                                      \
    "contract_id, hw_id, first_us, last_us, slot_until_us, identity, expelled_us, COALESCE(level, ''),"      \
    " COALESCE(at_us, 0), COALESCE(image, ''), COALESCE(image_version, ''), COALESCE(made_us, 0),"           \
    " COALESCE(holds, 0), COALESCE(broken, 0), COALESCE(not_checked, 0), COALESCE(first_broken, '')"         \
    " FROM machines LEFT JOIN machine_attested USING(contract_id, hw_id)"                                    \
    " LEFT JOIN machine_reports USING(contract_id, hw_id)"

static void machine_read(struct cp_rows *rows, struct cp_machine *m)
{
    *m = (struct cp_machine){.first_us = (uint64_t)cp_rows_int(rows, 2),
                             .last_us = (uint64_t)cp_rows_int(rows, 3),
                             .slot_until_us = (uint64_t)cp_rows_int(rows, 4),
                             .expelled_us = (uint64_t)cp_rows_int(rows, 6),
                             .attested_us = (uint64_t)cp_rows_int(rows, 8),
                             .proved_us = (uint64_t)cp_rows_int(rows, 11),
                             .proved_holds = (unsigned)cp_rows_int(rows, 12),
                             .proved_broken = (unsigned)cp_rows_int(rows, 13),
                             .proved_not_checked = (unsigned)cp_rows_int(rows, 14)};
    CP_ROWS_TEXT(rows, 0, m->contract_id);
    CP_ROWS_TEXT(rows, 1, m->hw_id);
    CP_ROWS_TEXT(rows, 5, m->identity);
    CP_ROWS_TEXT(rows, 7, m->attested_level);
    CP_ROWS_TEXT(rows, 9, m->attested_image);
    CP_ROWS_TEXT(rows, 10, m->attested_version);
    CP_ROWS_TEXT(rows, 15, m->proved_first_broken);
}

int cp_store_get_machine(struct cp_store *s, const char *contract_id, const char *hw_id,
                         struct cp_machine *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " MACHINE_COLUMNS " WHERE contract_id=$1 AND hw_id=$2", "tt",
                         contract_id, hw_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    machine_read(rows, ret);
    return 0;
}

static int machine_each(struct cp_rows *rows, int (*fn)(const struct cp_machine *, void *), void *ctx)
{
    struct cp_machine m;
    int r;

    while ((r = cp_rows_next(rows)) > 0) {
        machine_read(rows, &m);
        r = fn(&m, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_each_machine(struct cp_store *s, const char *contract_id,
                          int (*fn)(const struct cp_machine *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " MACHINE_COLUMNS
                         " WHERE $1 IS NULL OR contract_id=$1 ORDER BY contract_id, hw_id",
                         "t", contract_id);

    return r < 0 ? r : machine_each(rows, fn, ctx);
}

const char *cp_machine_state(const struct cp_machine *m, uint64_t now_us)
{
    return m->expelled_us ? "expelled" : m->slot_until_us > now_us ? "active" : "gone";
}

/* The state as cp_machine_state() says it. */
int cp_store_page_machines(struct cp_store *s, uint64_t now_us, const struct cp_machine_page *p,
                           int (*fn)(const struct cp_machine *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " MACHINE_COLUMNS " WHERE ($1='' OR contract_id=$1)"
                         " AND (contract_id>$2 OR (contract_id=$2 AND hw_id>$3))"
                         " AND ($4='' OR $4=CASE WHEN expelled_us<>0 THEN 'expelled' WHEN slot_until_us>$5"
                         " THEN 'active' ELSE 'gone' END) ORDER BY contract_id, hw_id LIMIT $6",
                         "ttttuu", p->contract_id, p->after, p->after_machine, p->state, now_us, p->limit);

    return r < 0 ? r : machine_each(rows, fn, ctx);
}

int cp_store_each_machine_named(struct cp_store *s, const char *hw_id,
                                int (*fn)(const struct cp_machine *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " MACHINE_COLUMNS " WHERE hw_id=$1 ORDER BY contract_id", "t",
                         hw_id);

    return r < 0 ? r : machine_each(rows, fn, ctx);
}
