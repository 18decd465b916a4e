/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <string.h>

#include "common/units.h"

#define SCHEMA_VERSION 1

struct cp_store {
    sqlite3 *db;
    char error[256]; /* what made a transaction roll back; the rollback itself clears SQLite's own text */
};

static char open_error[256];

static const char schema[] =
    "CREATE TABLE assets(asset_id TEXT PRIMARY KEY, ciphertext_url TEXT NOT NULL, manifest_url TEXT NOT NULL,"
    " chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL, sha256_ciphertext TEXT NOT NULL,"
    " manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL, registered_us INTEGER NOT NULL,"
    " updated_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE contracts(contract_id TEXT PRIMARY KEY, asset_id TEXT NOT NULL, active INTEGER NOT NULL,"
    " reason TEXT NOT NULL, expires_us INTEGER NOT NULL, lease_seconds INTEGER NOT NULL, max_hw INTEGER NOT "
    "NULL,"
    " created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE TABLE machines(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, first_us INTEGER NOT NULL,"
    " last_us INTEGER NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE log(id INTEGER PRIMARY KEY AUTOINCREMENT, at_us INTEGER NOT NULL, contract_id TEXT NOT "
    "NULL,"
    " asset_id TEXT NOT NULL, hw_id TEXT NOT NULL, peer TEXT NOT NULL, client_name TEXT NOT NULL,"
    " authorized INTEGER NOT NULL, reason TEXT NOT NULL) STRICT;";

/* Came later; versions without it pass over it. */
static const char usage_schema[] =
    "CREATE TABLE IF NOT EXISTS usage(contract_id TEXT NOT NULL, hw_id TEXT NOT NULL, asset_id TEXT NOT NULL,"
    " at_us INTEGER NOT NULL, report TEXT NOT NULL, PRIMARY KEY(contract_id, hw_id)) STRICT, WITHOUT ROWID;";

static int store_map_error(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_DONE:
    case SQLITE_ROW:
        return 0;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_NOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static void store_stmt_finalizep(sqlite3_stmt **st)
{
    sqlite3_finalize(*st);
}
#define _cleanup_stmt_ _cleanup_(store_stmt_finalizep)

/* Prepares sql and binds its parameters: 't' const char *, 'u' uint64_t, 'b' const void * and int. Pointers
 * must live until the statement is finalized. */
static int store_prepare(struct cp_store *s, sqlite3_stmt **ret, const char *sql, const char *types, ...)
{
    va_list ap;
    int rc;

    rc = sqlite3_prepare_v2(s->db, sql, -1, ret, NULL);
    va_start(ap, types);
    for (int i = 1; rc == SQLITE_OK && *types; i++, types++) {
        if (*types == 't') {
            rc = sqlite3_bind_text(*ret, i, va_arg(ap, const char *), -1, SQLITE_STATIC);
        } else if (*types == 'u') {
            rc = sqlite3_bind_int64(*ret, i, (sqlite3_int64)va_arg(ap, uint64_t));
        } else {
            const void *blob = va_arg(ap, const void *);

            rc = sqlite3_bind_blob(*ret, i, blob, va_arg(ap, int), SQLITE_STATIC);
        }
    }
    va_end(ap);
    return store_map_error(rc);
}

static int store_step_done(sqlite3_stmt *st)
{
    return store_map_error(sqlite3_step(st));
}

static int store_exec(struct cp_store *s, const char *sql)
{
    return store_map_error(sqlite3_exec(s->db, sql, NULL, NULL, NULL));
}

static int store_user_version(struct cp_store *s)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = store_prepare(s, &st, "PRAGMA user_version", "");
    if (r < 0)
        return r;
    if (sqlite3_step(st) != SQLITE_ROW)
        return store_map_error(sqlite3_errcode(s->db)) < 0 ? store_map_error(sqlite3_errcode(s->db)) : -EIO;
    return sqlite3_column_int(st, 0);
}

/* Several processes may meet a new database at once: the version is looked at again under the write lock. */
static int store_make_schema(struct cp_store *s)
{
    char sql[64];
    int r;

    r = cp_store_begin(s);
    if (r < 0)
        return r;
    r = store_user_version(s);
    if (r == 0) {
        r = store_exec(s, schema);
        if (r == 0)
            r = cp_store_seed(s, tb_now_realtime_us());
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", SCHEMA_VERSION);
        if (r == 0)
            r = store_exec(s, sql);
    }
    if (r < 0) {
        cp_store_rollback(s);
        return r;
    }
    return cp_store_commit(s);
}

static int store_prepare_database(struct cp_store *s)
{
    int r;

    sqlite3_busy_timeout(s->db, CP_STORE_BUSY_MS);
    r = store_exec(s, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF;"
                      "PRAGMA secure_delete=ON;");
    if (r < 0)
        return r;
    r = store_user_version(s);
    if (r == 0) {
        r = store_make_schema(s);
        return r < 0 ? r : store_exec(s, usage_schema);
    }
    return r < 0 ? r : r == SCHEMA_VERSION ? store_exec(s, usage_schema) : -EPROTONOSUPPORT;
}

int cp_store_open(const char *path, struct cp_store **ret)
{
    _cleanup_store_ struct cp_store *s = NULL;
    _cleanup_close_ int fd = -1;
    int r;

    open_error[0] = '\0';
    /* SQLite would make it by the umask; its -wal and -shm then copy this mode */
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    fd = tb_close(fd);
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    r = store_map_error(sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE, NULL));
    if (r == 0)
        r = store_prepare_database(s);
    if (r < 0) {
        snprintf(open_error, sizeof(open_error), "%s",
                 r == -EPROTONOSUPPORT ? "made by another version of tb-controlplane" : cp_store_error(s));
        return r;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

struct cp_store *cp_store_close(struct cp_store *s)
{
    if (s)
        sqlite3_close(s->db);
    free(s);
    return NULL;
}

const char *cp_store_error(const struct cp_store *s)
{
    if (!s)
        return open_error;
    return sqlite3_errcode(s->db) == SQLITE_OK && *s->error ? s->error : sqlite3_errmsg(s->db);
}

int cp_store_begin(struct cp_store *s)
{
    return store_exec(s, "BEGIN IMMEDIATE");
}

int cp_store_commit(struct cp_store *s)
{
    int r = store_exec(s, "COMMIT");

    if (r < 0)
        cp_store_rollback(s);
    return r;
}

void cp_store_rollback(struct cp_store *s)
{
    snprintf(s->error, sizeof(s->error), "%s", sqlite3_errmsg(s->db));
    (void)store_exec(s, "ROLLBACK");
}

int cp_store_seed(struct cp_store *s, uint64_t now_us)
{
    struct cp_contract c = {.contract_id = "contract-allow",
                            .asset_id = CP_ANY_ASSET,
                            .active = true,
                            .lease_seconds = CP_LEASE_SECONDS_DEFAULT,
                            .created_us = now_us,
                            .updated_us = now_us};
    int r;

    r = cp_store_put_contract(s, &c, true);
    if (r < 0)
        return r;
    strcpy(c.contract_id, "contract-deny");
    strcpy(c.reason, "contract_invalid");
    c.active = false;
    return cp_store_put_contract(s, &c, true);
}

/* -- assets ------------------------------------------------------------------------------------ */
static int store_write_asset(struct cp_store *s, const struct cp_asset *a)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = store_prepare(
        s, &st,
        "INSERT INTO assets VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT(asset_id) DO UPDATE SET"
        " ciphertext_url=?2, manifest_url=?3, chunk_bytes=?4, plaintext_bytes=?5, sha256_ciphertext=?6,"
        " manifest_sha256=?7, wrapped_key=?8, updated_us=?10",
        "tttuuttbuu", a->asset_id, a->ciphertext_url, a->manifest_url, a->chunk_bytes, a->plaintext_bytes,
        a->sha256_ciphertext, a->manifest_sha256, a->wrapped_key, (int)sizeof(a->wrapped_key),
        a->registered_us, a->updated_us);
    return r < 0 ? r : store_step_done(st);
}

static int store_asset_exists(struct cp_store *s, const char *asset_id)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r, rc;

    r = store_prepare(s, &st, "SELECT 1 FROM assets WHERE asset_id=?", "t", asset_id);
    if (r < 0)
        return r;
    rc = sqlite3_step(st);
    return rc == SQLITE_ROW ? 1 : store_map_error(rc);
}

int cp_store_put_asset(struct cp_store *s, const struct cp_asset *a, bool *ret_replaced)
{
    int existed, r;

    r = cp_store_begin(s);
    if (r < 0)
        return r;
    existed = store_asset_exists(s, a->asset_id);
    r = existed < 0 ? existed : store_write_asset(s, a);
    if (r < 0) {
        cp_store_rollback(s);
        return r;
    }
    r = cp_store_commit(s);
    if (r == 0)
        *ret_replaced = existed;
    return r;
}

static void store_column_text(sqlite3_stmt *st, int i, char *out, size_t out_len)
{
    const unsigned char *t = sqlite3_column_text(st, i);

    snprintf(out, out_len, "%s", t ? (const char *)t : "");
}
#define COLUMN_TEXT(st, i, field) store_column_text(st, i, field, sizeof(field))

#define ASSET_COLUMNS                                                                                        \
    "asset_id, ciphertext_url, manifest_url, chunk_bytes, plaintext_bytes, sha256_ciphertext, "              \
    "manifest_sha256,"                                                                                       \
    " wrapped_key, registered_us, updated_us"

static int store_read_asset(sqlite3_stmt *st, struct cp_asset *a)
{
    *a = (struct cp_asset){0};
    COLUMN_TEXT(st, 0, a->asset_id);
    COLUMN_TEXT(st, 1, a->ciphertext_url);
    COLUMN_TEXT(st, 2, a->manifest_url);
    a->chunk_bytes = (uint64_t)sqlite3_column_int64(st, 3);
    a->plaintext_bytes = (uint64_t)sqlite3_column_int64(st, 4);
    COLUMN_TEXT(st, 5, a->sha256_ciphertext);
    COLUMN_TEXT(st, 6, a->manifest_sha256);
    if (sqlite3_column_bytes(st, 7) != sizeof(a->wrapped_key))
        return -EIO;
    memcpy(a->wrapped_key, sqlite3_column_blob(st, 7), sizeof(a->wrapped_key));
    a->registered_us = (uint64_t)sqlite3_column_int64(st, 8);
    a->updated_us = (uint64_t)sqlite3_column_int64(st, 9);
    return 0;
}

int cp_store_get_asset(struct cp_store *s, const char *asset_id, struct cp_asset *ret)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r, rc;

    r = store_prepare(s, &st, "SELECT " ASSET_COLUMNS " FROM assets WHERE asset_id=?", "t", asset_id);
    if (r < 0)
        return r;
    rc = sqlite3_step(st);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? -ENOENT : store_map_error(rc);
    return store_read_asset(st, ret);
}

int cp_store_each_asset(struct cp_store *s, int (*fn)(const struct cp_asset *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_asset a;
    int r, rc;

    r = store_prepare(s, &st, "SELECT " ASSET_COLUMNS " FROM assets ORDER BY asset_id", "");
    if (r < 0)
        return r;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        r = store_read_asset(st, &a);
        if (r == 0)
            r = fn(&a, ctx);
        if (r != 0)
            return r;
    }
    return store_map_error(rc);
}

/* -- contracts --------------------------------------------------------------------------------- */
int cp_store_put_contract(struct cp_store *s, const struct cp_contract *c, bool replace)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = store_prepare(s, &st,
                      replace ? "INSERT OR REPLACE INTO contracts VALUES(?,?,?,?,?,?,?,?,?)"
                              : "INSERT INTO contracts VALUES(?,?,?,?,?,?,?,?,?)",
                      "ttutuuuuu", c->contract_id, c->asset_id, (uint64_t)c->active, c->reason, c->expires_us,
                      c->lease_seconds, c->max_hw, c->created_us, c->updated_us);
    if (r < 0)
        return r;
    if (sqlite3_step(st) == SQLITE_CONSTRAINT)
        return -EEXIST;
    return store_map_error(sqlite3_errcode(s->db));
}

#define CONTRACT_COLUMNS                                                                                     \
    "contract_id, asset_id, active, reason, expires_us, lease_seconds, max_hw, created_us, updated_us,"      \
    " (SELECT count(*) FROM machines m WHERE m.contract_id=contracts.contract_id)"

static void store_read_contract(sqlite3_stmt *st, struct cp_contract *c)
{
    *c = (struct cp_contract){0};
    COLUMN_TEXT(st, 0, c->contract_id);
    COLUMN_TEXT(st, 1, c->asset_id);
    c->active = sqlite3_column_int(st, 2);
    COLUMN_TEXT(st, 3, c->reason);
    c->expires_us = (uint64_t)sqlite3_column_int64(st, 4);
    c->lease_seconds = (uint64_t)sqlite3_column_int64(st, 5);
    c->max_hw = (uint64_t)sqlite3_column_int64(st, 6);
    c->created_us = (uint64_t)sqlite3_column_int64(st, 7);
    c->updated_us = (uint64_t)sqlite3_column_int64(st, 8);
    c->hw_used = (uint64_t)sqlite3_column_int64(st, 9);
}

int cp_store_get_contract(struct cp_store *s, const char *contract_id, struct cp_contract *ret)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r, rc;

    r = store_prepare(s, &st, "SELECT " CONTRACT_COLUMNS " FROM contracts WHERE contract_id=?", "t",
                      contract_id);
    if (r < 0)
        return r;
    rc = sqlite3_step(st);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? -ENOENT : store_map_error(rc);
    store_read_contract(st, ret);
    return 0;
}

int cp_store_each_contract(struct cp_store *s, int (*fn)(const struct cp_contract *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_contract c;
    int r, rc;

    r = store_prepare(s, &st, "SELECT " CONTRACT_COLUMNS " FROM contracts ORDER BY contract_id", "");
    if (r < 0)
        return r;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        store_read_contract(st, &c);
        r = fn(&c, ctx);
        if (r != 0)
            return r;
    }
    return store_map_error(rc);
}

/* -- machines ---------------------------------------------------------------------------------- */
int cp_store_bind_hw(struct cp_store *s, const char *contract_id, const char *hw_id, uint64_t max_hw,
                     uint64_t now_us)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    /* one statement: counting and adding cannot come apart */
    r = store_prepare(s, &st,
                      "INSERT INTO machines SELECT ?1,?2,?4,?4 WHERE ?3=0"
                      " OR EXISTS(SELECT 1 FROM machines WHERE contract_id=?1 AND hw_id=?2)"
                      " OR (SELECT count(*) FROM machines WHERE contract_id=?1) < ?3"
                      " ON CONFLICT(contract_id, hw_id) DO UPDATE SET last_us=?4",
                      "ttuu", contract_id, hw_id, max_hw, now_us);
    if (r < 0)
        return r;
    r = store_step_done(st);
    if (r < 0)
        return r;
    return sqlite3_changes(s->db) > 0 ? 0 : -EDQUOT;
}

int cp_store_unbind_hw(struct cp_store *s, const char *contract_id)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = store_prepare(s, &st, "DELETE FROM machines WHERE contract_id=?", "t", contract_id);
    return r < 0 ? r : store_step_done(st);
}

/* -- log --------------------------------------------------------------------------------------- */
int cp_store_add_log(struct cp_store *s, const struct cp_log_entry *e)
{
    _cleanup_stmt_ sqlite3_stmt *add = NULL, *trim = NULL;
    int r;

    r = store_prepare(
        s, &add,
        "INSERT INTO log(at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason)"
        " VALUES(?,?,?,?,?,?,?,?)",
        "utttttut", e->at_us, e->contract_id, e->asset_id, e->hw_id, e->peer, e->client_name,
        (uint64_t)e->authorized, e->reason);
    if (r < 0)
        return r;
    r = store_step_done(add);
    if (r < 0)
        return r;
    r = store_prepare(s, &trim, "DELETE FROM log WHERE id <= ?", "u",
                      (uint64_t)MAX((sqlite3_int64)0, sqlite3_last_insert_rowid(s->db) - CP_STORE_LOG_MAX));
    return r < 0 ? r : store_step_done(trim);
}

int cp_store_each_log(struct cp_store *s, uint64_t limit, int (*fn)(const struct cp_log_entry *, void *),
                      void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r, rc;

    r = store_prepare(s, &st,
                      "SELECT at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason FROM"
                      " (SELECT * FROM log ORDER BY id DESC LIMIT ?) ORDER BY id",
                      "u", limit);
    if (r < 0)
        return r;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct cp_log_entry e = {.at_us = (uint64_t)sqlite3_column_int64(st, 0)};

        COLUMN_TEXT(st, 1, e.contract_id);
        COLUMN_TEXT(st, 2, e.asset_id);
        COLUMN_TEXT(st, 3, e.hw_id);
        COLUMN_TEXT(st, 4, e.peer);
        COLUMN_TEXT(st, 5, e.client_name);
        e.authorized = sqlite3_column_int(st, 6);
        COLUMN_TEXT(st, 7, e.reason);
        r = fn(&e, ctx);
        if (r != 0)
            return r;
    }
    return store_map_error(rc);
}

/* -- usage reports ----------------------------------------------------------------------------- */
int cp_store_put_usage(struct cp_store *s, const struct cp_usage *u)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = store_prepare(s, &st,
                      "INSERT INTO usage VALUES(?1,?2,?3,?4,?5) ON CONFLICT(contract_id, hw_id) DO UPDATE SET"
                      " asset_id=?3, at_us=?4, report=?5 WHERE ?4 >= at_us",
                      "tttut", u->contract_id, u->hw_id, u->asset_id, u->at_us, u->report);
    return r < 0 ? r : store_step_done(st);
}

int cp_store_each_usage(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_usage u;
    int r, rc;

    r = store_prepare(s, &st, "SELECT contract_id, asset_id, hw_id, at_us, report FROM usage ORDER BY 1, 3",
                      "");
    if (r < 0)
        return r;
    while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
        COLUMN_TEXT(st, 0, u.contract_id);
        COLUMN_TEXT(st, 1, u.asset_id);
        COLUMN_TEXT(st, 2, u.hw_id);
        u.at_us = (uint64_t)sqlite3_column_int64(st, 3);
        COLUMN_TEXT(st, 4, u.report);
        r = fn(&u, ctx);
        if (r != 0)
            return r;
    }
    return store_map_error(rc);
}
