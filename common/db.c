/* SPDX-License-Identifier: Apache-2.0 */
#include "common/db.h"

#include <assert.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* SQLite would make it by the umask; its -wal and -shm then copy this mode. A file that is there is never
 * opened here: to close any descriptor of it takes the locks of all connections that this process has to it
 * (POSIX), and two writers at once damage it. */
static int db_file_make(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

    return fd < 0 && errno != EEXIST ? -errno : 0;
}

static int db_set_up(sqlite3 *db, int flags)
{
    sqlite3_busy_timeout(db, TB_DB_BUSY_MS);
    if (flags & SQLITE_OPEN_READONLY)
        return 0;
    return tb_db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF;");
}

int tb_db_open(const char *path, int flags, sqlite3 **ret, char err[static TB_DB_ERR_MAX])
{
    _cleanup_db_ sqlite3 *db = NULL;
    bool file = strcmp(path, ":memory:") != 0;
    int r = file && (flags & SQLITE_OPEN_CREATE) ? db_file_make(path) : 0;

    err[0] = '\0';
    if (r < 0) {
        snprintf(err, TB_DB_ERR_MAX, "opening: %s", strerror(-r));
        return r;
    }
    if (sqlite3_open_v2(path, &db, flags, NULL) != SQLITE_OK)
        return tb_db_error(db, tb_db_errno(db), "opening", err);
    r = db_set_up(db, flags);
    if (r < 0)
        return tb_db_error(db, r, "opening", err);
    *ret = TAKE_PTR(db);
    return 0;
}

int tb_db_errno(sqlite3 *db)
{
    switch (db ? sqlite3_errcode(db) : SQLITE_NOMEM) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_CONSTRAINT:
        return -EEXIST;
    default:
        return -EIO;
    }
}

int tb_db_error(sqlite3 *db, int r, const char *what, char err[static TB_DB_ERR_MAX])
{
    int rc = db ? sqlite3_errcode(db) : SQLITE_OK;
    bool known = rc != SQLITE_OK && rc != SQLITE_ROW && rc != SQLITE_DONE;

    assert(r < 0);
    if (*err == '\0')
        snprintf(err, TB_DB_ERR_MAX, "%s: %s", what, known ? sqlite3_errmsg(db) : strerror(-r));
    return r;
}

static int stmt_bind(sqlite3_stmt *s, int i, char type, va_list *ap)
{
    const void *blob;

    switch (type) {
    case 'i':
        return sqlite3_bind_int64(s, i, va_arg(*ap, int64_t));
    case 'u':
        return sqlite3_bind_int64(s, i, (sqlite3_int64)va_arg(*ap, uint64_t));
    case 't':
        return sqlite3_bind_text(s, i, va_arg(*ap, const char *), -1, SQLITE_TRANSIENT);
    case 'b':
        blob = va_arg(*ap, const void *);
        return sqlite3_bind_blob64(s, i, blob, va_arg(*ap, size_t), SQLITE_TRANSIENT);
    default:
        assert(!"a type of argument that does not exist");
        return SQLITE_MISUSE;
    }
}

static int stmt_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, va_list *ap)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        return tb_db_errno(db);
    for (int i = 0; types && types[i]; i++)
        if (stmt_bind(s, i + 1, types[i], ap) != SQLITE_OK)
            return tb_db_errno(db);
    *ret = TAKE_PTR(s);
    return 0;
}

int tb_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, ...)
{
    va_list ap;
    int r;

    va_start(ap, types);
    r = stmt_prepare(db, ret, sql, types, &ap);
    va_end(ap);
    return r;
}

int tb_db_step(sqlite3_stmt *s)
{
    int rc = sqlite3_step(s);

    return rc == SQLITE_ROW ? 1 : rc == SQLITE_DONE ? 0 : tb_db_errno(sqlite3_db_handle(s));
}

void tb_db_column_text(sqlite3_stmt *s, int column, char *out, size_t size)
{
    const unsigned char *text = sqlite3_column_text(s, column);

    snprintf(out, size, "%s", text ? (const char *)text : "");
}

int tb_db_run(sqlite3 *db, const char *sql, const char *types, ...)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    va_list ap;
    int r;

    va_start(ap, types);
    r = stmt_prepare(db, &s, sql, types, &ap);
    va_end(ap);
    if (r < 0)
        return r;
    while ((r = tb_db_step(s)) > 0)
        ;
    return r < 0 ? r : sqlite3_changes(db);
}

int tb_db_exec(sqlite3 *db, const char *sql)
{
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : tb_db_errno(db);
}

int tb_db_int(sqlite3 *db, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    va_list ap;
    int r;

    va_start(ap, types);
    r = stmt_prepare(db, &s, sql, types, &ap);
    va_end(ap);
    if (r < 0)
        return r;
    r = tb_db_step(s);
    if (r < 0)
        return r;
    *ret = r > 0 && sqlite3_column_type(s, 0) != SQLITE_NULL ? sqlite3_column_int64(s, 0) : fallback;
    return 0;
}

int tb_db_begin(struct tb_db_tx *tx, sqlite3 *db, char err[static TB_DB_ERR_MAX])
{
    int r;

    assert(!tx->open);
    err[0] = '\0';
    tx->db = db;
    r = tb_db_exec(db, "BEGIN IMMEDIATE");
    tx->open = r == 0;
    return r;
}

int tb_db_end(struct tb_db_tx *tx, int r, const char *what, char err[static TB_DB_ERR_MAX])
{
    if (r >= 0) {
        assert(tx->open);
        r = tb_db_exec(tx->db, "COMMIT");
        tx->open = r < 0;
    }
    return r < 0 ? tb_db_error(tx->db, r, what, err) : 0;
}

void tb_db_rollback(struct tb_db_tx *tx)
{
    if (tx->open)
        (void)tb_db_exec(tx->db, "ROLLBACK");
    tx->open = false;
}
