/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/images.h"

#include "controlplane/store/store_room.h"

#define IMAGE_COLUMNS "name, version, document, registered_us, registered_by, revoked_us FROM images"

static void image_read(struct cp_rows *r, struct cp_image *i)
{
    *i = (struct cp_image){.registered_us = (uint64_t)cp_rows_int(r, 3),
                           .revoked_us = (uint64_t)cp_rows_int(r, 5)};
    CP_ROWS_TEXT(r, 0, i->name);
    CP_ROWS_TEXT(r, 1, i->version);
    CP_ROWS_TEXT(r, 2, i->document);
    CP_ROWS_TEXT(r, 4, i->registered_by);
}

int cp_store_put_image(struct cp_store *s, const struct cp_image *i)
{
    int n =
        cp_sql_run(s->c, "INSERT INTO images VALUES($1,$2,$3,$4,$5,0) ON CONFLICT(name, version) DO NOTHING",
                   "tttut", i->name, i->version, i->document, i->registered_us, i->registered_by);

    return n < 0 ? n : n == 0 ? -EEXIST : 0;
}

int cp_store_get_image(struct cp_store *s, const char *name, const char *version, struct cp_image *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " IMAGE_COLUMNS " WHERE name=$1 AND version=$2", "tt", name,
                         version);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r > 0)
        image_read(rows, ret);
    return r > 0 ? 0 : r == 0 ? -ENOENT : r;
}

int cp_store_revoke_image(struct cp_store *s, const char *name, const char *version, uint64_t now_us)
{
    int n = cp_sql_run(s->c,
                       "UPDATE images SET revoked_us=CASE WHEN revoked_us=0 THEN $3 ELSE revoked_us END"
                       " WHERE name=$1 AND version=$2",
                       "ttu", name, version, now_us);

    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}

static int image_each(struct cp_rows *rows, int (*fn)(const struct cp_image *, void *), void *ctx)
{
    struct cp_image i;
    int r;

    while ((r = cp_rows_next(rows)) > 0) {
        image_read(rows, &i);
        r = fn(&i, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_page_images(struct cp_store *s, const char *after, const char *after_version, uint64_t limit,
                         int (*fn)(const struct cp_image *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " IMAGE_COLUMNS " WHERE name>$1 OR (name=$1 AND version>$2)"
                         " ORDER BY name, version LIMIT $3",
                         "ttu", after, after_version, limit);

    return r < 0 ? r : image_each(rows, fn, ctx);
}

int cp_store_each_image(struct cp_store *s, int (*fn)(const struct cp_image *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r =
        cp_sql_query(s->c, &rows, "SELECT " IMAGE_COLUMNS " ORDER BY registered_us DESC, name, version", "");

    return r < 0 ? r : image_each(rows, fn, ctx);
}
