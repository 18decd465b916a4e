/* SPDX-License-Identifier: Apache-2.0 */
#include "common/db.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int tb_db_fail(sqlite3 *db, const char *what, char err[static TB_DB_ERR_MAX])
{
    snprintf(err, TB_DB_ERR_MAX, "%s: %s", what, db ? sqlite3_errmsg(db) : "out of memory");
    switch (db ? sqlite3_errcode(db) : SQLITE_NOMEM) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
        return -EBADMSG;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_NOMEM:
        return -ENOMEM;
    default:
        return -EIO;
    }
}

static int prepare_va(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, va_list ap)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;

    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK)
        return -EIO;
    for (int i = 0; types && types[i]; i++) {
        int r;

        if (types[i] == 'i')
            r = sqlite3_bind_int64(s, i + 1, va_arg(ap, int64_t));
        else
            r = sqlite3_bind_text(s, i + 1, va_arg(ap, const char *), -1, SQLITE_TRANSIENT);
        if (r != SQLITE_OK)
            return -EIO;
    }
    *ret = TAKE_PTR(s);
    return 0;
}

int tb_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, ...)
{
    va_list ap;
    int r;

    va_start(ap, types);
    r = prepare_va(db, ret, sql, types, ap);
    va_end(ap);
    return r;
}

int tb_db_run(sqlite3 *db, const char *sql, const char *types, ...)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    va_list ap;
    int r;

    va_start(ap, types);
    r = prepare_va(db, &s, sql, types, ap);
    va_end(ap);
    if (r < 0)
        return r;
    while ((r = sqlite3_step(s)) == SQLITE_ROW)
        ;
    return r == SQLITE_DONE ? sqlite3_changes(db) : -EIO;
}

int tb_db_int(sqlite3 *db, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    va_list ap;
    int r;

    va_start(ap, types);
    r = prepare_va(db, &s, sql, types, ap);
    va_end(ap);
    if (r < 0)
        return r;
    r = sqlite3_step(s);
    if (r != SQLITE_ROW && r != SQLITE_DONE)
        return -EIO;
    *ret =
        r == SQLITE_ROW && sqlite3_column_type(s, 0) != SQLITE_NULL ? sqlite3_column_int64(s, 0) : fallback;
    return 0;
}

int tb_db_transaction(sqlite3 *db, const char *what, int (*fn)(void *arg), void *arg,
                      char err[static TB_DB_ERR_MAX])
{
    int r;

    if (sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return tb_db_fail(db, what, err);
    r = fn(arg);
    if (r >= 0 && sqlite3_exec(db, "COMMIT", NULL, NULL, NULL) == SQLITE_OK)
        return 0;
    /* Before the rollback, whose success would be the last thing SQLite knows of. */
    if (r >= 0 || r == -EIO)
        r = tb_db_fail(db, what, err);
    (void)sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    return r;
}
