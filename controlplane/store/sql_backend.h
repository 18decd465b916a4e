/* SPDX-License-Identifier: Apache-2.0 */
/* What the two backends of sql.h have in common. */
#ifndef CP_SQL_BACKEND_H
#define CP_SQL_BACKEND_H

#include "controlplane/store/sql.h"

struct cp_sql_arg {
    char type;
    int64_t i;
    const char *text;
    const void *blob;
    size_t len;
};

struct cp_sql_ops {
    const char *name;
    void (*close)(struct cp_sql *c);
    int (*begin)(struct cp_sql *c);
    int (*commit)(struct cp_sql *c);
    void (*rollback)(struct cp_sql *c);
    int (*script)(struct cp_sql *c, const char *text);
    /* ret NULL: to its end, rows changed; else a cursor before the first row */
    int (*run)(struct cp_sql *c, const char *sql, const struct cp_sql_arg *args, int n, struct cp_rows **ret);
    int (*next)(struct cp_rows *r);
    bool (*is_null)(struct cp_rows *r, int column);
    int64_t (*get_int)(struct cp_rows *r, int column);
    const char *(*get_text)(struct cp_rows *r, int column);
    int (*get_blob)(struct cp_rows *r, int column, void *out, size_t size, size_t *ret_len);
    void (*free_rows)(struct cp_rows *r);
    int (*lock)(struct cp_sql *c);
};

/* The first member of each backend's structure. */
struct cp_sql {
    const struct cp_sql_ops *ops;
    bool open; /* a transaction is */
    char error[TB_DB_ERR_MAX];
};

struct cp_rows {
    struct cp_sql *c;
    void *result;
    int row;
};

int cp_sql_open_sqlite(const char *path, struct cp_sql **ret, char err[static TB_DB_ERR_MAX]);
int cp_sql_open_postgresql(const char *url, struct cp_sql **ret, char err[static TB_DB_ERR_MAX]);

#endif
