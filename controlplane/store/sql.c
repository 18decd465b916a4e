/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/sql.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

#include "controlplane/store/sql_backend.h"

struct cp_sql *cp_sql_close(struct cp_sql *c)
{
    if (c)
        c->ops->close(c);
    return NULL;
}

const char *cp_sql_error(const struct cp_sql *c)
{
    return c->error;
}

const char *cp_sql_pick(const struct cp_sql *c, const char *sqlite, const char *postgresql)
{
    return strcmp(c->ops->name, "sqlite") == 0 ? sqlite : postgresql;
}

int cp_sql_begin(struct cp_sql *c)
{
    int r;

    assert(!c->open);
    r = c->ops->begin(c);
    c->open = r == 0;
    return r;
}

int cp_sql_commit(struct cp_sql *c)
{
    int r;

    assert(c->open);
    r = c->ops->commit(c);
    if (r < 0)
        cp_sql_rollback(c);
    c->open = false;
    return r;
}

void cp_sql_rollback(struct cp_sql *c)
{
    if (c->open)
        c->ops->rollback(c);
    c->open = false;
}

int cp_sql_lock(struct cp_sql *c)
{
    assert(!c->open);
    return c->ops->lock(c);
}

int cp_sql_script(struct cp_sql *c, const char *text)
{
    return c->ops->script(c, text);
}

static int sql_collect(const char *types, va_list *ap, struct cp_sql_arg *args)
{
    int n = 0;

    for (; types[n]; n++) {
        struct cp_sql_arg *a = &args[n];

        assert(n < CP_SQL_ARGS_MAX);
        *a = (struct cp_sql_arg){.type = types[n]};
        switch (a->type) {
        case 'i':
            a->i = va_arg(*ap, int64_t);
            break;
        case 'u':
            a->type = 'i';
            a->i = (int64_t)va_arg(*ap, uint64_t);
            break;
        case 't':
            a->text = va_arg(*ap, const char *);
            break;
        case 'b':
            a->blob = va_arg(*ap, const void *);
            a->len = va_arg(*ap, size_t);
            break;
        default:
            assert(!"a type of argument that does not exist");
        }
    }
    return n;
}

int cp_sql_run(struct cp_sql *c, const char *sql, const char *types, ...)
{
    struct cp_sql_arg args[CP_SQL_ARGS_MAX];
    va_list ap;
    int n;

    va_start(ap, types);
    n = sql_collect(types, &ap, args);
    va_end(ap);
    return c->ops->run(c, sql, args, n, NULL);
}

int cp_sql_query(struct cp_sql *c, struct cp_rows **ret, const char *sql, const char *types, ...)
{
    struct cp_sql_arg args[CP_SQL_ARGS_MAX];
    va_list ap;
    int n;

    va_start(ap, types);
    n = sql_collect(types, &ap, args);
    va_end(ap);
    return c->ops->run(c, sql, args, n, ret);
}

int cp_sql_int(struct cp_sql *c, int64_t *ret, int64_t fallback, const char *sql, const char *types, ...)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_sql_arg args[CP_SQL_ARGS_MAX];
    va_list ap;
    int n, r;

    va_start(ap, types);
    n = sql_collect(types, &ap, args);
    va_end(ap);
    r = c->ops->run(c, sql, args, n, &rows);
    if (r < 0)
        return r;
    r = cp_rows_next(rows);
    if (r < 0)
        return r;
    *ret = r > 0 && !c->ops->is_null(rows, 0) ? cp_rows_int(rows, 0) : fallback;
    return 0;
}

int cp_rows_next(struct cp_rows *r)
{
    return r->c->ops->next(r);
}

int64_t cp_rows_int(struct cp_rows *r, int column)
{
    return r->c->ops->get_int(r, column);
}

void cp_rows_text(struct cp_rows *r, int column, char *out, size_t size)
{
    const char *text = r->c->ops->get_text(r, column);

    snprintf(out, size, "%s", text ? text : "");
}

int cp_rows_blob(struct cp_rows *r, int column, void *out, size_t size, size_t *ret_len)
{
    return r->c->ops->get_blob(r, column, out, size, ret_len);
}

struct cp_rows *cp_rows_free(struct cp_rows *r)
{
    if (r)
        r->c->ops->free_rows(r);
    free(r);
    return NULL;
}
