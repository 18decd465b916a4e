/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/places.h"

#include <string.h>

#include "controlplane/store/store_room.h"

int cp_store_put_places(struct cp_store *s, const struct cp_asset *a, const struct cp_places *p)
{
    int r = store_run(s, "DELETE FROM asset_places WHERE asset_id=$1 AND version=$2", "tu", a->asset_id,
                      a->version);

    for (size_t i = 1; r == 0 && i < p->n; i++)
        r = store_run(s, "INSERT INTO asset_places VALUES($1,$2,$3,$4,$5)", "tuutt", a->asset_id, a->version,
                      (uint64_t)i, p->v[i].ciphertext_url, p->v[i].manifest_url);
    return r;
}

int cp_store_get_places(struct cp_store *s, const struct cp_asset *a, struct cp_places *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT ciphertext_url, manifest_url FROM asset_places WHERE asset_id=$1"
                         " AND version=$2 ORDER BY place",
                         "tu", a->asset_id, a->version);

    ret->n = 1;
    strcpy(ret->v[0].ciphertext_url, a->ciphertext_url);
    strcpy(ret->v[0].manifest_url, a->manifest_url);
    if (r < 0)
        return r;
    while (ret->n < CP_PLACES_MAX && (r = cp_rows_next(rows)) > 0) {
        struct cp_blob_place *l = &ret->v[ret->n++];

        CP_ROWS_TEXT(rows, 0, l->ciphertext_url);
        CP_ROWS_TEXT(rows, 1, l->manifest_url);
    }
    return MIN(r, 0);
}

int cp_store_each_place(struct cp_store *s, const char *asset_id,
                        int (*fn)(uint64_t version, const char *ciphertext_url, void *ctx), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    char url[CP_URL_MAX + 1];
    int r = cp_sql_query(s->c, &rows,
                         "SELECT version, ciphertext_url FROM asset_places WHERE asset_id=$1"
                         " ORDER BY version, place",
                         "t", asset_id);

    while (r >= 0 && (r = cp_rows_next(rows)) > 0) {
        CP_ROWS_TEXT(rows, 1, url);
        r = fn((uint64_t)cp_rows_int(rows, 0), url, ctx);
        if (r != 0)
            return r;
    }
    return r;
}
