/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/store.h"

#include <assert.h>
#include <string.h>

#include "common/units.h"

#define SCHEMA_VERSION 1

struct cp_store {
    sqlite3 *db;
    struct tb_db_tx tx;
    char error[TB_DB_ERR_MAX]; /* of the last call that failed */
};

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

/* Registrations that another one with other contents or another key took the place of: the only copy of a key
 * may be among them. */
static const char superseded_schema[] =
    "CREATE TABLE IF NOT EXISTS superseded(id INTEGER PRIMARY KEY, asset_id TEXT NOT NULL, ciphertext_url "
    "TEXT NOT NULL,"
    " manifest_url TEXT NOT NULL, chunk_bytes INTEGER NOT NULL, plaintext_bytes INTEGER NOT NULL,"
    " sha256_ciphertext TEXT NOT NULL, manifest_sha256 TEXT NOT NULL, wrapped_key BLOB NOT NULL,"
    " registered_us INTEGER NOT NULL, updated_us INTEGER NOT NULL) STRICT;";

/* Keeps SQLite's words of a failure for cp_store_error(). Returns r. */
static int store_failed(struct cp_store *s, int r)
{
    if (r < 0)
        snprintf(s->error, sizeof(s->error), "%s", sqlite3_errmsg(s->db));
    return r;
}

/* A statement without rows. 0 or -errno. */
#define store_run(s, ...) store_failed(s, MIN(tb_db_run((s)->db, __VA_ARGS__), 0))

static int store_user_version(struct cp_store *s, int64_t *ret)
{
    return tb_db_int(s->db, ret, 0, "PRAGMA user_version", "");
}

/* Several processes may meet a new database at once: the version is looked at again under the write lock. */
static int store_make_schema(struct cp_store *s)
{
    int64_t version;
    char sql[64];
    int r = cp_store_begin(s);

    if (r == 0)
        r = store_user_version(s, &version);
    if (r == 0 && version == 0) {
        r = tb_db_exec(s->db, schema);
        if (r == 0)
            r = cp_store_seed(s, tb_now_realtime_us());
        snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", SCHEMA_VERSION);
        if (r == 0)
            r = tb_db_exec(s->db, sql);
    }
    if (r == 0)
        return cp_store_commit(s);
    store_failed(s, r);
    cp_store_rollback(s);
    return r;
}

static int store_prepare(struct cp_store *s)
{
    int64_t version = 0;
    int r;

    sqlite3_busy_timeout(s->db, CP_STORE_BUSY_MS);
    r = tb_db_exec(s->db, "PRAGMA trusted_schema=OFF; PRAGMA secure_delete=ON;");
    if (r == 0)
        r = store_user_version(s, &version);
    if (r == 0 && version == 0)
        r = store_make_schema(s);
    else if (r == 0 && version != SCHEMA_VERSION)
        return -EPROTONOSUPPORT;
    if (r == 0)
        r = tb_db_exec(s->db, usage_schema);
    return r == 0 ? tb_db_exec(s->db, superseded_schema) : r;
}

int cp_store_open(const char *path, struct cp_store **ret, char err[static TB_DB_ERR_MAX])
{
    _cleanup_store_ struct cp_store *s = calloc(1, sizeof(*s));
    int r;

    err[0] = '\0';
    if (!s)
        return -ENOMEM;
    r = tb_db_open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &s->db, err);
    if (r < 0)
        return r;
    r = store_prepare(s);
    if (r < 0) {
        snprintf(err, TB_DB_ERR_MAX, "%s",
                 r == -EPROTONOSUPPORT ? "made by another version of tb-controlplane"
                                       : sqlite3_errmsg(s->db));
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
    return s->error;
}

int cp_store_begin(struct cp_store *s)
{
    assert(!s->tx.open);
    return tb_db_begin(&s->tx, s->db, s->error);
}

int cp_store_commit(struct cp_store *s)
{
    int r;

    assert(s->tx.open);
    r = tb_db_end(&s->tx, 0, "commit", s->error);

    if (r < 0)
        cp_store_rollback(s);
    return r;
}

void cp_store_rollback(struct cp_store *s)
{
    tb_db_rollback(&s->tx);
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
    return tb_db_run(
        s->db,
        "INSERT INTO assets VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10) ON CONFLICT(asset_id) DO UPDATE SET"
        " ciphertext_url=?2, manifest_url=?3, chunk_bytes=?4, plaintext_bytes=?5, sha256_ciphertext=?6,"
        " manifest_sha256=?7, wrapped_key=?8, updated_us=?10",
        "tttuuttbuu", a->asset_id, a->ciphertext_url, a->manifest_url, a->chunk_bytes, a->plaintext_bytes,
        a->sha256_ciphertext, a->manifest_sha256, a->wrapped_key, sizeof(a->wrapped_key), a->registered_us,
        a->updated_us);
}

static int store_supersede(struct cp_store *s, const char *asset_id)
{
    int n =
        tb_db_run(s->db, "INSERT INTO superseded SELECT NULL, * FROM assets WHERE asset_id=?", "t", asset_id);

    return MIN(n, 0);
}

int cp_store_put_asset(struct cp_store *s, const struct cp_asset *a, bool supersede, bool *ret_replaced)
{
    int64_t existed = 0;
    int r = cp_store_begin(s);

    if (r < 0)
        return r;
    r = tb_db_int(s->db, &existed, 0, "SELECT 1 FROM assets WHERE asset_id=?", "t", a->asset_id);
    if (r == 0 && existed && supersede)
        r = store_supersede(s, a->asset_id);
    if (r == 0)
        r = store_write_asset(s, a);
    if (r < 0) {
        store_failed(s, r);
        cp_store_rollback(s);
        return r;
    }
    r = cp_store_commit(s);
    if (r == 0)
        *ret_replaced = existed;
    return r;
}

/* The registration that is there goes to the far end, so that the next call goes further back. */
static int store_bring_back(struct cp_store *s, const char *asset_id, int64_t id)
{
    int r = store_run(s,
                      "INSERT INTO superseded SELECT (SELECT min(id) FROM superseded) - 1, * FROM assets"
                      " WHERE asset_id=?",
                      "t", asset_id);

    if (r == 0)
        r = store_run(
            s,
            "INSERT OR REPLACE INTO assets SELECT asset_id, ciphertext_url, manifest_url, chunk_bytes,"
            " plaintext_bytes, sha256_ciphertext, manifest_sha256, wrapped_key, registered_us,"
            " updated_us FROM superseded WHERE id=?",
            "i", id);
    return r == 0 ? store_run(s, "DELETE FROM superseded WHERE id=?", "i", id) : r;
}

int cp_store_restore_asset(struct cp_store *s, const char *asset_id)
{
    int64_t last = INT64_MIN;
    int r = cp_store_begin(s);

    if (r < 0)
        return r;
    r = store_failed(s, tb_db_int(s->db, &last, INT64_MIN, "SELECT max(id) FROM superseded WHERE asset_id=?",
                                  "t", asset_id));
    if (r == 0)
        r = last == INT64_MIN ? -ENOENT : store_bring_back(s, asset_id, last);
    if (r == 0)
        return cp_store_commit(s);
    cp_store_rollback(s);
    return r;
}

#define COLUMN_TEXT(st, i, field) tb_db_column_text(st, i, field, sizeof(field))

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
    int r;

    r = tb_db_prepare(s->db, &st, "SELECT " ASSET_COLUMNS " FROM assets WHERE asset_id=?", "t", asset_id);
    if (r == 0)
        r = tb_db_step(st);
    if (r <= 0)
        return r == 0 ? -ENOENT : store_failed(s, r);
    return store_read_asset(st, ret);
}

int cp_store_each_asset(struct cp_store *s, int (*fn)(const struct cp_asset *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_asset a;
    int r;

    r = tb_db_prepare(s->db, &st, "SELECT " ASSET_COLUMNS " FROM assets ORDER BY asset_id", "");
    if (r < 0)
        return store_failed(s, r);
    while ((r = tb_db_step(st)) > 0) {
        r = store_read_asset(st, &a);
        if (r == 0)
            r = fn(&a, ctx);
        if (r != 0)
            return r;
    }
    return store_failed(s, r);
}

/* -- contracts --------------------------------------------------------------------------------- */
int cp_store_put_contract(struct cp_store *s, const struct cp_contract *c, bool replace)
{
    return store_run(s,
                     replace ? "INSERT OR REPLACE INTO contracts VALUES(?,?,?,?,?,?,?,?,?)"
                             : "INSERT INTO contracts VALUES(?,?,?,?,?,?,?,?,?)",
                     "ttutuuuuu", c->contract_id, c->asset_id, (uint64_t)c->active, c->reason, c->expires_us,
                     c->lease_seconds, c->max_hw, c->created_us, c->updated_us);
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
    int r;

    r = tb_db_prepare(s->db, &st, "SELECT " CONTRACT_COLUMNS " FROM contracts WHERE contract_id=?", "t",
                      contract_id);
    if (r == 0)
        r = tb_db_step(st);
    if (r <= 0)
        return r == 0 ? -ENOENT : store_failed(s, r);
    store_read_contract(st, ret);
    return 0;
}

int cp_store_each_contract(struct cp_store *s, int (*fn)(const struct cp_contract *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_contract c;
    int r;

    r = tb_db_prepare(s->db, &st, "SELECT " CONTRACT_COLUMNS " FROM contracts ORDER BY contract_id", "");
    if (r < 0)
        return store_failed(s, r);
    while ((r = tb_db_step(st)) > 0) {
        store_read_contract(st, &c);
        r = fn(&c, ctx);
        if (r != 0)
            return r;
    }
    return store_failed(s, r);
}

/* -- machines ---------------------------------------------------------------------------------- */
int cp_store_bind_hw(struct cp_store *s, const char *contract_id, const char *hw_id, uint64_t max_hw,
                     uint64_t now_us)
{
    /* one statement: counting and adding cannot come apart */
    int n = tb_db_run(s->db,
                      "INSERT INTO machines SELECT ?1,?2,?4,?4 WHERE ?3=0"
                      " OR EXISTS(SELECT 1 FROM machines WHERE contract_id=?1 AND hw_id=?2)"
                      " OR (SELECT count(*) FROM machines WHERE contract_id=?1) < ?3"
                      " ON CONFLICT(contract_id, hw_id) DO UPDATE SET last_us=?4",
                      "ttuu", contract_id, hw_id, max_hw, now_us);

    if (n < 0)
        return store_failed(s, n);
    return n > 0 ? 0 : -EDQUOT;
}

int cp_store_unbind_hw(struct cp_store *s, const char *contract_id)
{
    return store_run(s, "DELETE FROM machines WHERE contract_id=?", "t", contract_id);
}

/* -- log --------------------------------------------------------------------------------------- */
int cp_store_add_log(struct cp_store *s, const struct cp_log_entry *e)
{
    int r = store_run(
        s,
        "INSERT INTO log(at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason)"
        " VALUES(?,?,?,?,?,?,?,?)",
        "utttttut", e->at_us, e->contract_id, e->asset_id, e->hw_id, e->peer, e->client_name,
        (uint64_t)e->authorized, e->reason);
    int64_t last = sqlite3_last_insert_rowid(s->db);

    return r < 0
               ? r
               : store_run(s, "DELETE FROM log WHERE id <= ?", "i", MAX((int64_t)0, last - CP_STORE_LOG_MAX));
}

int cp_store_each_log(struct cp_store *s, uint64_t limit, int (*fn)(const struct cp_log_entry *, void *),
                      void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r;

    r = tb_db_prepare(s->db, &st,
                      "SELECT at_us, contract_id, asset_id, hw_id, peer, client_name, authorized, reason FROM"
                      " (SELECT * FROM log ORDER BY id DESC LIMIT ?) ORDER BY id",
                      "u", limit);
    if (r < 0)
        return store_failed(s, r);
    while ((r = tb_db_step(st)) > 0) {
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
    return store_failed(s, r);
}

/* -- usage reports ----------------------------------------------------------------------------- */
int cp_store_put_usage(struct cp_store *s, const struct cp_usage *u)
{
    return store_run(s,
                     "INSERT INTO usage VALUES(?1,?2,?3,?4,?5) ON CONFLICT(contract_id, hw_id) DO UPDATE SET"
                     " asset_id=?3, at_us=?4, report=?5 WHERE ?4 >= at_us",
                     "tttut", u->contract_id, u->hw_id, u->asset_id, u->at_us, u->report);
}

int cp_store_each_usage(struct cp_store *s, int (*fn)(const struct cp_usage *, void *), void *ctx)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    struct cp_usage u;
    int r;

    r = tb_db_prepare(s->db, &st,
                      "SELECT contract_id, asset_id, hw_id, at_us, report FROM usage ORDER BY 1, 3", "");
    if (r < 0)
        return store_failed(s, r);
    while ((r = tb_db_step(st)) > 0) {
        COLUMN_TEXT(st, 0, u.contract_id);
        COLUMN_TEXT(st, 1, u.asset_id);
        COLUMN_TEXT(st, 2, u.hw_id);
        u.at_us = (uint64_t)sqlite3_column_int64(st, 3);
        COLUMN_TEXT(st, 4, u.report);
        r = fn(&u, ctx);
        if (r != 0)
            return r;
    }
    return store_failed(s, r);
}
