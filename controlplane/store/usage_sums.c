/* SPDX-License-Identifier: Apache-2.0 */
/* Usage added up. */
#include "controlplane/store/usage.h"

#include "controlplane/store/store_room.h"

/* $1: enum cp_usage_by; $2: one contract, or "" */
#define SUM_OF(table, value, where)                                                                          \
    "SELECT t.contract_id, CASE WHEN $1=1 THEN t.hw_id ELSE '' END, CASE WHEN $1=2 THEN l.asset_id"          \
    " ELSE '' END, t.counter, CAST(SUM(" value ") AS BIGINT) FROM " table " t JOIN usage_ledgers l"          \
    " ON l.contract_id=t.contract_id AND l.hw_id=t.hw_id AND l.ledger=t.ledger"                              \
    " WHERE ($2='' OR t.contract_id=$2)" where " GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"

static int sum_read(struct cp_rows *rows, int (*fn)(const struct cp_usage_sum *, void *), void *ctx)
{
    struct cp_usage_sum u;
    int r;

    while ((r = cp_rows_next(rows)) > 0) {
        u = (struct cp_usage_sum){.used = (uint64_t)cp_rows_int(rows, 4)};
        CP_ROWS_TEXT(rows, 0, u.contract_id);
        CP_ROWS_TEXT(rows, 1, u.hw_id);
        CP_ROWS_TEXT(rows, 2, u.asset_id);
        CP_ROWS_TEXT(rows, 3, u.counter);
        r = fn(&u, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_each_usage_sum(struct cp_store *s, const struct cp_usage_query *q,
                            int (*fn)(const struct cp_usage_sum *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = q->all_time
                ? cp_sql_query(s->c, &rows, SUM_OF("usage_totals", "t.total-t.base", ""), "ut",
                               (uint64_t)q->by, q->contract_id)
                : cp_sql_query(s->c, &rows,
                               SUM_OF("usage_hours", "t.total-t.base", " AND t.hour>=$3 AND t.hour<$4"),
                               "utii", (uint64_t)q->by, q->contract_id, q->from_hour, q->to_hour);

    return r < 0 ? r : sum_read(rows, fn, ctx);
}
