/* SPDX-License-Identifier: Apache-2.0 */
/* A connection to SQLite or PostgreSQL, used by one thread at a time, and one SQL text for both.
 *
 * SQL is a string literal: statements are prepared once for each connection and recognised by their address.
 * Parameters are $1, $2, ...; types describes them as common/db.h does: i int64_t, u uint64_t, t const char *
 * (NULL is NULL), b const void * and size_t. INSERT ... ON CONFLICT ... DO UPDATE, RETURNING, CASE and the
 * like exist in both; what does not is cp_sql_pick().
 *
 * Errors: -EDEADLK the transaction could not be put into an order with others (again!), -EBUSY somebody holds
 * a lock for too long, -ENOTCONN the server is away or went away, -EEXIST a constraint, -ENOSPC, -ENOMEM,
 * -EBADMSG not a database, else -EIO. cp_sql_error() has the words, without secrets, until the next call. */
#ifndef CP_SQL_H
#define CP_SQL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/db.h"
#include "common/macros.h"

#define CP_SQL_BUSY_MS 5000
#define CP_SQL_ARGS_MAX 20

struct cp_sql;
struct cp_rows;

/* A path is a SQLite file, made 0600 when missing; postgresql:// or postgres:// is libpq's. A server that is
 * away is -ENOTCONN. */
int cp_sql_open(const char *where, struct cp_sql **ret, char err[static TB_DB_ERR_MAX]);
struct cp_sql *cp_sql_close(struct cp_sql *c);
bool cp_sql_is_url(const char *where);
const char *cp_sql_error(const struct cp_sql *c);
/* The one of two texts that is for this connection. */
const char *cp_sql_pick(const struct cp_sql *c, const char *sqlite, const char *postgresql);

/* Connects again when the connection is lost. */
int cp_sql_begin(struct cp_sql *c);
/* 0 only when the database says that it is done. */
int cp_sql_commit(struct cp_sql *c);
/* Nothing when no transaction is open. */
void cp_sql_rollback(struct cp_sql *c);

/* Takes a lock that the whole database has one of, or keeps it: until the connection ends, and no longer.
 * 1; 0: another has it. Not in a transaction. Who has lost its connection has lost it, perhaps unnoticed:
 * nothing may go wrong by that. */
int cp_sql_lock(struct cp_sql *c);

/* Runs one statement to its end. Rows changed. */
int cp_sql_run(struct cp_sql *c, const char *sql, const char *types, ...);
/* Any number of statements without parameters; the text need not be a literal. */
int cp_sql_script(struct cp_sql *c, const char *text);
/* First column of the first row; fallback when there is no row or it is NULL. */
int cp_sql_int(struct cp_sql *c, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...);
/* A statement with rows. */
int cp_sql_query(struct cp_sql *c, struct cp_rows **ret, const char *sql, const char *types, ...);

/* 1 a row, 0 the end. */
int cp_rows_next(struct cp_rows *r);
int64_t cp_rows_int(struct cp_rows *r, int column);
/* What does not fit is cut off; NULL is "". */
void cp_rows_text(struct cp_rows *r, int column, char *out, size_t size);
/* -EFBIG when it does not fit. */
int cp_rows_blob(struct cp_rows *r, int column, void *out, size_t size, size_t *ret_len);
struct cp_rows *cp_rows_free(struct cp_rows *r);
static inline void cp_rows_freep(struct cp_rows **r)
{
    *r = cp_rows_free(*r);
}
#define _cleanup_rows_ _cleanup_(cp_rows_freep)
#define CP_ROWS_TEXT(r, column, array) cp_rows_text(r, column, array, sizeof(array))

#endif
