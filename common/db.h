/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite with less ceremony. Arguments of a statement are described by a string of types: i int64_t, t const char * (NULL is NULL).
 * Functions return a negative errno; tb_db_fail() turns SQLite's last error into one, and into words. */
#ifndef TB_DB_H
#define TB_DB_H

#include <sqlite3.h>
#include <stdint.h>

#include "common/macros.h"

#define TB_DB_ERR_MAX 256

static inline void tb_stmt_finalizep(sqlite3_stmt **s)
{
    sqlite3_finalize(*s);
    *s = NULL;
}
#define _cleanup_stmt_ _cleanup_(tb_stmt_finalizep)

/* -EBADMSG damaged, -ENOSPC, -ENOMEM, else -EIO. db may be NULL. */
int tb_db_fail(sqlite3 *db, const char *what, char err[static TB_DB_ERR_MAX]);

/* A prepared statement with its arguments bound, for the caller to step and finalize. */
int tb_db_prepare(sqlite3 *db, sqlite3_stmt **ret, const char *sql, const char *types, ...);
/* Runs a statement to its end. Returns the number of rows changed. */
int tb_db_run(sqlite3 *db, const char *sql, const char *types, ...);
/* First column of the first row; fallback when there is no row or it is NULL. */
int tb_db_int(sqlite3 *db, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...);

/* Runs fn inside BEGIN IMMEDIATE and COMMIT; rolls back when it fails. fn returns -EIO for what SQLite reports, which is then put into
 * words here after `what`, or another errno when it has written err itself. */
int tb_db_transaction(sqlite3 *db, const char *what, int (*fn)(void *arg), void *arg,
                      char err[static TB_DB_ERR_MAX]);

#endif
