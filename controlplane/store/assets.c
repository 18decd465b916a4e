/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "controlplane/store/store_room.h"

#define ASSET_COLUMNS                                                                                        \
    "v.asset_id, v.version, a.current_version, v.ciphertext_url, v.manifest_url, v.chunk_bytes,"             \
    " v.plaintext_bytes, v.sha256_ciphertext, v.manifest_sha256, v.kek_id, v.wrapped_key, v.key_id,"         \
    " v.registered_us, v.updated_us, v.base_version FROM asset_versions v JOIN assets a ON "                 \
    "a.asset_id=v.asset_id"

static int asset_read(struct cp_rows *r, struct cp_asset *a)
{
    *a = (struct cp_asset){.version = (uint64_t)cp_rows_int(r, 1)};
    CP_ROWS_TEXT(r, 0, a->asset_id);
    a->current = cp_rows_int(r, 2) == (int64_t)a->version;
    CP_ROWS_TEXT(r, 3, a->ciphertext_url);
    CP_ROWS_TEXT(r, 4, a->manifest_url);
    a->chunk_bytes = (uint64_t)cp_rows_int(r, 5);
    a->plaintext_bytes = (uint64_t)cp_rows_int(r, 6);
    CP_ROWS_TEXT(r, 7, a->sha256_ciphertext);
    CP_ROWS_TEXT(r, 8, a->manifest_sha256);
    CP_ROWS_TEXT(r, 9, a->wrapped.kek_id);
    CP_ROWS_TEXT(r, 11, a->key_id);
    a->registered_us = (uint64_t)cp_rows_int(r, 12);
    a->updated_us = (uint64_t)cp_rows_int(r, 13);
    a->base_version = (uint64_t)cp_rows_int(r, 14);
    return cp_rows_blob(r, 10, a->wrapped.b, sizeof(a->wrapped.b), &a->wrapped.len);
}

int cp_store_get_asset(struct cp_store *s, const char *asset_id, uint64_t version, struct cp_asset *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " ASSET_COLUMNS " WHERE v.asset_id=$1"
                         " AND v.version=CASE WHEN $2=0 THEN a.current_version ELSE $2 END",
                         "tu", asset_id, version);

    if (r == 0)
        r = cp_rows_next(rows);
    return r <= 0 ? (r == 0 ? -ENOENT : r) : asset_read(rows, ret);
}

static int asset_each(struct cp_rows *rows, int (*fn)(const struct cp_asset *, void *), void *ctx)
{
    struct cp_asset a;
    int r;

    while ((r = cp_rows_next(rows)) > 0) {
        r = asset_read(rows, &a);
        if (r == 0)
            r = fn(&a, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_each_asset(struct cp_store *s, const char *asset_id, int (*fn)(const struct cp_asset *, void *),
                        void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r;

    if (asset_id)
        r = cp_sql_query(s->c, &rows, "SELECT " ASSET_COLUMNS " WHERE v.asset_id=$1 ORDER BY v.version", "t",
                         asset_id);
    else
        r = cp_sql_query(s->c, &rows,
                         "SELECT " ASSET_COLUMNS " WHERE v.version=a.current_version ORDER BY v.asset_id",
                         "");
    return r < 0 ? r : asset_each(rows, fn, ctx);
}

int cp_store_page_assets(struct cp_store *s, const char *after, uint64_t limit,
                         int (*fn)(const struct cp_asset *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " ASSET_COLUMNS " WHERE v.version=a.current_version AND v.asset_id>$1"
                         " ORDER BY v.asset_id LIMIT $2",
                         "tu", after, limit);

    return r < 0 ? r : asset_each(rows, fn, ctx);
}

/* The version that has this key and these contents. 0: none. */
static int asset_find_version(struct cp_store *s, const struct cp_asset *a, int64_t *ret)
{
    return cp_sql_int(
        s->c, ret, 0,
        "SELECT v.version FROM asset_versions v JOIN assets a ON a.asset_id=v.asset_id"
        " WHERE v.asset_id=$1 AND v.key_id=$2 AND v.sha256_ciphertext=$3"
        " ORDER BY CASE WHEN v.version=a.current_version THEN 0 ELSE 1 END, v.version DESC LIMIT 1",
        "ttt", a->asset_id, a->key_id, a->sha256_ciphertext);
}

/* A number is never given twice, also when its version was deleted. */
static int asset_insert(struct cp_store *s, struct cp_asset *a)
{
    int64_t last = 0, deleted = -1;
    int r = cp_sql_int(s->c, &last, 0, "SELECT max(version) FROM asset_versions WHERE asset_id=$1", "t",
                       a->asset_id);

    if (r == 0)
        r = cp_sql_int(s->c, &deleted, -1, "SELECT last_version FROM assets WHERE asset_id=$1", "t",
                       a->asset_id);
    if (r < 0)
        return r;
    a->version = (uint64_t)MAX(last, MAX(deleted, (int64_t)0)) + 1;
    if (deleted < 0)
        r = store_run(s, "INSERT INTO assets(asset_id, current_version, created_us) VALUES($1, 1, $2)", "tu",
                      a->asset_id, a->registered_us);
    if (r < 0)
        return r;
    return store_run(s, "INSERT INTO asset_versions VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)",
                     "tuttuutttbtuuu", a->asset_id, a->version, a->ciphertext_url, a->manifest_url,
                     a->chunk_bytes, a->plaintext_bytes, a->sha256_ciphertext, a->manifest_sha256,
                     a->wrapped.kek_id, a->wrapped.b, a->wrapped.len, a->key_id, a->registered_us,
                     a->updated_us, a->base_version);
}

int cp_store_find_overlay(struct cp_store *s, const char *asset_id, uint64_t version, uint64_t *ret)
{
    int64_t found = 0;
    int r = cp_sql_int(s->c, &found, 0,
                       "SELECT min(version) FROM asset_versions WHERE asset_id=$1 AND base_version=$2", "tu",
                       asset_id, version);

    *ret = (uint64_t)found;
    return r;
}

int cp_store_check_base(struct cp_store *s, const struct cp_asset *a, const struct cp_base *b)
{
    struct cp_asset base;
    int r = b->version ? cp_store_get_asset(s, a->asset_id, b->version, &base) : 0;

    if (r < 0 || b->version == 0)
        return r;
    return base.base_version == 0 && strcmp(base.key_id, a->key_id) == 0 &&
                   strcmp(base.sha256_ciphertext, b->sha256_ciphertext) == 0 &&
                   strcmp(base.manifest_sha256, b->manifest_sha256) == 0
               ? 0
               : -EBADMSG;
}

/* Overlays name their base's manifest by its hash: it stays what it is while there are any. */
static int asset_check_overlays(struct cp_store *s, const struct cp_asset *a)
{
    struct cp_asset before;
    uint64_t overlay;
    int r = cp_store_get_asset(s, a->asset_id, a->version, &before);

    if (r < 0 || strcmp(before.manifest_sha256, a->manifest_sha256) == 0)
        return r;
    r = cp_store_find_overlay(s, a->asset_id, a->version, &overlay);
    return r < 0 || overlay == 0 ? r : -ENOTEMPTY;
}

/* The same key and contents from another place. Its wrapping stays. */
static int asset_update(struct cp_store *s, const struct cp_asset *a)
{
    int r = asset_check_overlays(s, a);

    return r < 0 ? r
                 : store_run(s,
                             "UPDATE asset_versions SET ciphertext_url=$3, manifest_url=$4, chunk_bytes=$5,"
                             " plaintext_bytes=$6, manifest_sha256=$7, updated_us=$8, base_version=$9"
                             " WHERE asset_id=$1 AND version=$2",
                             "tuttuutuu", a->asset_id, a->version, a->ciphertext_url, a->manifest_url,
                             a->chunk_bytes, a->plaintext_bytes, a->manifest_sha256, a->updated_us,
                             a->base_version);
}

int cp_store_count_followers(struct cp_store *s, const char *asset_id, uint64_t now_us, uint64_t *ret)
{
    int64_t n = 0;
    int r = cp_sql_int(s->c, &n, 0,
                       "SELECT count(*) FROM contracts WHERE (asset_id=$1 OR asset_id='*') AND active=1"
                       " AND version=0 AND (expires_us=0 OR expires_us>$2)",
                       "tu", asset_id, now_us);

    *ret = (uint64_t)n;
    return r;
}

int cp_store_promote_asset(struct cp_store *s, const char *asset_id, uint64_t version)
{
    int n = cp_sql_run(s->c,
                       "UPDATE assets SET current_version=$2 WHERE asset_id=$1"
                       " AND EXISTS(SELECT 1 FROM asset_versions WHERE asset_id=$1 AND version=$2)",
                       "tu", asset_id, version);

    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}

int cp_store_put_asset(struct cp_store *s, struct cp_asset *a, const struct cp_put_how *how, enum cp_put *ret,
                       uint64_t *ret_live)
{
    int64_t current = 0, found = 0;
    int r = cp_sql_int(s->c, &current, 0, "SELECT current_version FROM assets WHERE asset_id=$1", "t",
                       a->asset_id);

    *ret_live = 0;
    if (r == 0)
        r = asset_find_version(s, a, &found);
    if (r < 0)
        return r;
    *ret = current == 0       ? CP_PUT_NEW
           : found == current ? CP_PUT_SAME
           : how->beside      ? CP_PUT_BESIDE
                              : CP_PUT_REPLACED;
    if (*ret == CP_PUT_REPLACED) {
        r = cp_store_count_followers(s, a->asset_id, a->updated_us, ret_live);
        if (r == 0 && *ret_live > 0 && !how->replace)
            r = -EADDRINUSE;
        if (r < 0)
            return r;
    }
    a->version = (uint64_t)found;
    r = found ? asset_update(s, a) : asset_insert(s, a);
    return r < 0 || *ret == CP_PUT_BESIDE ? r : cp_store_promote_asset(s, a->asset_id, a->version);
}

int cp_store_restore_asset(struct cp_store *s, const char *asset_id, uint64_t *ret_version)
{
    int64_t other = 0;
    int r = cp_sql_int(s->c, &other, 0,
                       "SELECT v.version FROM asset_versions v JOIN assets a ON a.asset_id=v.asset_id"
                       " WHERE v.asset_id=$1 AND v.version<>a.current_version"
                       " ORDER BY CASE WHEN v.version<a.current_version THEN 0 ELSE 1 END, v.version DESC"
                       " LIMIT 1",
                       "t", asset_id);

    if (r < 0)
        return r;
    *ret_version = (uint64_t)other;
    return other == 0 ? -ENOENT : cp_store_promote_asset(s, asset_id, (uint64_t)other);
}

/* What a contract names is kept, also for one that is over: it may be allowed again. One for every asset
 * names the current version of each while it is live: else one that is over would keep all for good. What a
 * machine serves is kept, too: it asks for the key again when it starts. */
static int asset_check_unused(struct cp_store *s, const char *asset_id, uint64_t version, uint64_t now_us)
{
    int64_t current = 0, named = 0, held = 0;
    uint64_t overlay = 0;
    int r =
        cp_sql_int(s->c, &current, 0, "SELECT current_version FROM assets WHERE asset_id=$1", "t", asset_id);

    if (r == 0)
        r = cp_sql_int(s->c, &named, 0,
                       "SELECT count(*) FROM contracts WHERE (asset_id=$1 AND ($2=0 OR version=$2))"
                       " OR (asset_id='*' AND $2=0 AND active=1 AND (expires_us=0 OR expires_us>$3))",
                       "tuu", asset_id, version, now_us);
    if (r == 0)
        r = cp_sql_int(
            s->c, &held, 0,
            "SELECT count(*) FROM machine_versions v JOIN machines m ON m.contract_id=v.contract_id"
            " AND m.hw_id=v.hw_id WHERE v.asset_id=$1 AND ($2=0 OR v.version=$2)"
            " AND m.slot_until_us>$3",
            "tuu", asset_id, version, now_us);
    if (r == 0 && version)
        r = cp_store_find_overlay(s, asset_id, version, &overlay);
    if (r < 0)
        return r;
    if (current == 0)
        return -ENOENT;
    return named || held || current == (int64_t)version ? -EADDRINUSE : overlay ? -ENOTEMPTY : 0;
}

int cp_store_delete_asset(struct cp_store *s, const char *asset_id, uint64_t version, uint64_t now_us)
{
    int r = asset_check_unused(s, asset_id, version, now_us), n;

    /* No number is given twice, also when the asset comes back: machines tell versions apart by it. */
    if (r == 0)
        r = store_run(s,
                      "UPDATE assets SET last_version=(SELECT max(v) FROM (SELECT last_version AS v UNION"
                      " SELECT $2 UNION SELECT max(version) FROM asset_versions WHERE asset_id=$1 AND $2=0)"
                      " AS numbers), current_version=CASE WHEN $2=0 THEN 0 ELSE current_version END"
                      " WHERE asset_id=$1",
                      "tu", asset_id, version);
    if (r == 0)
        r = store_run(s, "DELETE FROM machine_versions WHERE asset_id=$1 AND ($2=0 OR version=$2)", "tu",
                      asset_id, version);
    if (r < 0)
        return r;
    r = store_run(s, "DELETE FROM asset_places WHERE asset_id=$1 AND ($2=0 OR version=$2)", "tu", asset_id,
                  version);
    if (r < 0)
        return r;
    n = cp_sql_run(s->c, "DELETE FROM asset_versions WHERE asset_id=$1 AND ($2=0 OR version=$2)", "tu",
                   asset_id, version);
    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}
