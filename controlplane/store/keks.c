/* SPDX-License-Identifier: Apache-2.0 */
/* Wrapped keys as such: under which key-encryption keys they are, and wrapping them anew. */
#include "controlplane/store/store_room.h"

int cp_store_each_kek(struct cp_store *s, int (*fn)(const char *kek_id, uint64_t versions, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    char kek_id[CP_KEK_ID_MAX + 1];
    int r = cp_sql_query(s->c, &rows,
                         "SELECT kek_id, count(*) FROM asset_versions GROUP BY kek_id ORDER BY kek_id", "");

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        CP_ROWS_TEXT(rows, 0, kek_id);
        r = fn(kek_id, (uint64_t)cp_rows_int(rows, 1), ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_next_other_kek(struct cp_store *s, const char *kek_id, const struct cp_asset *after,
                            struct cp_asset *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    char asset_id[sizeof(ret->asset_id)];
    uint64_t version;
    int r =
        cp_sql_query(s->c, &rows,
                     "SELECT asset_id, version FROM asset_versions WHERE kek_id<>$1"
                     " AND (asset_id>$2 OR (asset_id=$2 AND version>$3)) ORDER BY asset_id, version LIMIT 1",
                     "ttu", kek_id, after->asset_id, after->version);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    CP_ROWS_TEXT(rows, 0, asset_id);
    version = (uint64_t)cp_rows_int(rows, 1);
    rows = cp_rows_free(rows);
    return cp_store_get_asset(s, asset_id, version, ret);
}

int cp_store_rewrap_asset(struct cp_store *s, const struct cp_asset *a, const struct cp_wrapped *w)
{
    int n = cp_sql_run(s->c,
                       "UPDATE asset_versions SET kek_id=$5, wrapped_key=$6"
                       " WHERE asset_id=$1 AND version=$2 AND kek_id=$3 AND wrapped_key=$4",
                       "tutbtb", a->asset_id, a->version, a->wrapped.kek_id, a->wrapped.b, a->wrapped.len,
                       w->kek_id, w->b, w->len);

    return n < 0 ? n : n == 0 ? -ESTALE : 0;
}
