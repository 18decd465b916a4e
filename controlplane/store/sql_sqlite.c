/* SPDX-License-Identifier: Apache-2.0 */
/* SQLite behind sql.h. */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

#include "common/io.h"
#include "controlplane/store/sql_backend.h"

struct sqlite_sql {
    struct cp_sql base;
    sqlite3 *db;
    char *lock_path;
    int lock_fd;
};

static sqlite3 *sqlite_db(struct cp_sql *c)
{
    return container_of(c, struct sqlite_sql, base)->db;
}

static int sqlite_failed(struct cp_sql *c, int r)
{
    if (r < 0)
        snprintf(c->error, sizeof(c->error), "%s", sqlite3_errmsg(sqlite_db(c)));
    return r;
}

static void sqlite_close(struct cp_sql *c)
{
    struct sqlite_sql *s = container_of(c, struct sqlite_sql, base);

    sqlite3_close(s->db);
    tb_close(s->lock_fd);
    free(s->lock_path);
    free(s);
}

static int sqlite_script(struct cp_sql *c, const char *text)
{
    return sqlite_failed(c, tb_db_exec(sqlite_db(c), text));
}

static int sqlite_begin(struct cp_sql *c)
{
    return sqlite_script(c, "BEGIN IMMEDIATE");
}

static int sqlite_commit(struct cp_sql *c)
{
    return sqlite_script(c, "COMMIT");
}

static void sqlite_rollback(struct cp_sql *c)
{
    (void)tb_db_exec(sqlite_db(c), "ROLLBACK");
}

static int sqlite_bind(sqlite3_stmt *st, int i, const struct cp_sql_arg *a)
{
    char name[16];
    int at;

    /* SQLite takes $1 for a name, and numbers names as they appear */
    snprintf(name, sizeof(name), "$%d", i);
    at = sqlite3_bind_parameter_index(st, name);
    if (at == 0)
        return SQLITE_OK;
    if (a->type == 'i')
        return sqlite3_bind_int64(st, at, a->i);
    if (a->type == 't')
        return sqlite3_bind_text(st, at, a->text, -1, SQLITE_TRANSIENT);
    return sqlite3_bind_blob64(st, at, a->blob, a->len, SQLITE_TRANSIENT);
}

static int sqlite_run(struct cp_sql *c, const char *sql, const struct cp_sql_arg *args, int n,
                      struct cp_rows **ret)
{
    _cleanup_stmt_ sqlite3_stmt *st = NULL;
    int r = 0;

    if (sqlite3_prepare_v2(sqlite_db(c), sql, -1, &st, NULL) != SQLITE_OK)
        return sqlite_failed(c, tb_db_errno(sqlite_db(c)));
    for (int i = 0; i < n; i++)
        if (sqlite_bind(st, i + 1, &args[i]) != SQLITE_OK)
            return sqlite_failed(c, tb_db_errno(sqlite_db(c)));
    if (!ret) {
        while ((r = tb_db_step(st)) > 0)
            ;
        return r < 0 ? sqlite_failed(c, r) : sqlite3_changes(sqlite_db(c));
    }
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    (*ret)->c = c;
    (*ret)->result = TAKE_PTR(st);
    return 0;
}

static int sqlite_next(struct cp_rows *r)
{
    return sqlite_failed(r->c, tb_db_step(r->result));
}

static bool sqlite_is_null(struct cp_rows *r, int column)
{
    return sqlite3_column_type(r->result, column) == SQLITE_NULL;
}

static int64_t sqlite_get_int(struct cp_rows *r, int column)
{
    return sqlite3_column_int64(r->result, column);
}

static const char *sqlite_get_text(struct cp_rows *r, int column)
{
    return (const char *)sqlite3_column_text(r->result, column);
}

static int sqlite_get_blob(struct cp_rows *r, int column, void *out, size_t size, size_t *ret_len)
{
    const void *p = sqlite3_column_blob(r->result, column);
    size_t n = (size_t)sqlite3_column_bytes(r->result, column);

    if (n > size)
        return -EFBIG;
    if (n > 0)
        memcpy(out, p, n);
    *ret_len = n;
    return 0;
}

static void sqlite_free_rows(struct cp_rows *r)
{
    sqlite3_finalize(r->result);
}

/* A file beside the database: to open that, and close it again, would drop SQLite's own locks. */
static int sqlite_lock(struct cp_sql *c)
{
    struct sqlite_sql *s = container_of(c, struct sqlite_sql, base);
    int r = 0;

    if (s->lock_fd >= 0)
        return 1;
    s->lock_fd = open(s->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd >= 0 && flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 1;
    if (errno != EWOULDBLOCK) {
        r = -EIO;
        snprintf(c->error, sizeof(c->error), "%.180s: %s", s->lock_path, strerror(errno));
    }
    s->lock_fd = tb_close(s->lock_fd);
    return r;
}

static const struct cp_sql_ops sqlite_ops = {
    .name = "sqlite",
    .close = sqlite_close,
    .begin = sqlite_begin,
    .commit = sqlite_commit,
    .rollback = sqlite_rollback,
    .script = sqlite_script,
    .run = sqlite_run,
    .next = sqlite_next,
    .is_null = sqlite_is_null,
    .get_int = sqlite_get_int,
    .get_text = sqlite_get_text,
    .get_blob = sqlite_get_blob,
    .free_rows = sqlite_free_rows,
    .lock = sqlite_lock,
};

int cp_sql_open_sqlite(const char *path, struct cp_sql **ret, char err[static TB_DB_ERR_MAX])
{
    _cleanup_free_ struct sqlite_sql *s = calloc(1, sizeof(*s));
    _cleanup_db_ sqlite3 *db = NULL;
    int r;

    if (!s)
        return -ENOMEM;
    r = tb_db_open(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, &db, err);
    if (r < 0)
        return r;
    sqlite3_busy_timeout(db, CP_SQL_BUSY_MS);
    r = tb_db_exec(db, "PRAGMA trusted_schema=OFF; PRAGMA secure_delete=ON; PRAGMA foreign_keys=ON;");
    if (r < 0)
        return tb_db_error(db, r, "opening", err);
    s->lock_path = tb_strf("%s.submitter", path);
    if (!s->lock_path)
        return -ENOMEM;
    s->lock_fd = -1;
    s->base.ops = &sqlite_ops;
    s->db = TAKE_PTR(db);
    *ret = &TAKE_PTR(s)->base;
    return 0;
}
