/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite with less ceremony: statements whose arguments are described by a string of types, errors as
 * negative errnos, and a transaction that ends with its scope.
 *
 * Types: i int64_t, u uint64_t, t const char * (NULL is NULL), b const void * and size_t. Values are copied.
 * Errors: -EBADMSG the file is damaged or not a database, -ENOSPC, -ENOMEM, -EBUSY locked for longer than
 * TB_DB_BUSY_MS, -EEXIST a constraint, else -EIO. tb_db_error() has the words, until the next call on the
 * same connection. */
#ifndef TB_DB_H
#define TB_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_DB_ERR_MAX 256
#define TB_DB_BUSY_MS 10000

static inline void tb_db_closep(sqlite3 **db)
{
    sqlite3_close(*db);
    *db = NULL;
}
#define _cleanup_db_ _cleanup_(tb_db_closep)

static inline void tb_stmt_finalizep(sqlite3_stmt **s)
{
    sqlite3_finalize(*s);
    *s = NULL;
}
#define _cleanup_stmt_ _cleanup_(tb_stmt_finalizep)

/* flags: as of sqlite3_open_v2(). A file that is made has mode 0600. Unless SQLITE_OPEN_READONLY is set the
 * connection uses WAL and synchronous=FULL. Words in err. */
int tb_db_open(const char *path, int flags, sqlite3 **ret, char err[static TB_DB_ERR_MAX]);

/* The negative errno of the connection's last error; db NULL: -ENOMEM. */
int tb_db_errno(sqlite3 *db);
/* Returns r. Writes "WHAT: SQLite's words" to err, unless something is there already: a function that fails
 * for a reason of its own has written that; err starts as "". db may be NULL. */
int tb_db_error(sqlite3 *db, int r, const char *what, char err[static TB_DB_ERR_MAX]);

/* A prepared statement with its arguments bound, for the caller to step and finalize. */
int tb_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, ...);
/* 1 a row, 0 the end. */
int tb_db_step(sqlite3_stmt *s);
/* A column's text; NULL is "". What does not fit is cut off. */
void tb_db_column_text(sqlite3_stmt *s, int column, char *out, size_t size);

/* Runs one statement to its end. Returns the number of rows changed. */
int tb_db_run(sqlite3 *db, const char *sql, const char *types, ...);
/* Runs any number of statements without arguments. 0 or -errno. */
int tb_db_exec(sqlite3 *db, const char *sql);
/* First column of the first row; fallback when there is no row or it is NULL. */
int tb_db_int(sqlite3 *db, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...);

/* A transaction, rolled back when its scope is left before the end:
 *
 *     _cleanup_tx_ struct tb_db_tx tx = {0};
 *     int r = tb_db_begin(&tx, db, err);
 *
 *     if (r == 0)
 *         r = ...
 *     return tb_db_end(&tx, r, "booking usage", err);
 */
struct tb_db_tx {
    sqlite3 *db;
    bool open;
};
/* BEGIN IMMEDIATE: the write lock is held from here on. Empties err. */
int tb_db_begin(struct tb_db_tx *tx, sqlite3 *db, char err[static TB_DB_ERR_MAX]);
/* r >= 0: COMMIT. 0, or what failed, with its words as tb_db_error() has them; the scope then rolls back. */
int tb_db_end(struct tb_db_tx *tx, int r, const char *what, char err[static TB_DB_ERR_MAX]);
void tb_db_rollback(struct tb_db_tx *tx);
#define _cleanup_tx_ _cleanup_(tb_db_rollback)

#endif
