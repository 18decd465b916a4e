/* SPDX-License-Identifier: Apache-2.0 */
/* PostgreSQL behind sql.h, by libpq. Parameters go as text, bytes as bytes; answers come as text. */
#include <inttypes.h>
#include <libpq-fe.h>
#include <string.h>

#include "common/hex.h"
#include "controlplane/store/sql_backend.h"

#define STATEMENTS_MAX 256
/* Types of pg_type.h, which is not for clients. */
#define OID_BYTEA 17
#define OID_INT8 20
#define OID_TEXT 25

struct pg_sql {
    struct cp_sql base;
    PGconn *db;
    const char *prepared[STATEMENTS_MAX]; /* by address; statement "sN" of this connection */
    int n_prepared;
    bool locked;
};

static void pg_clear_result(PGresult **r)
{
    PQclear(*r);
    *r = NULL;
}
#define _cleanup_result_ _cleanup_(pg_clear_result)

static struct pg_sql *pg_of(struct cp_sql *c)
{
    return container_of(c, struct pg_sql, base);
}

/* Session settings. A transaction whose client vanished must not hold its locks for long. */
static const char session[] =
    "SET default_transaction_isolation='serializable'; SET lock_timeout='5s'; SET statement_timeout='10s';"
    "SET idle_in_transaction_session_timeout='15s'; SET client_min_messages='warning';"
    /* A client whose machine is gone must not hold the submitter's lock for hours. */
    "SET tcp_keepalives_idle=30; SET tcp_keepalives_interval=10; SET tcp_keepalives_count=4;";

static const struct {
    const char *state; /* SQLSTATE, or its class */
    int r;
} pg_errors[] = {
    {"40001", -EDEADLK},  {"40P01", -EDEADLK},  {"55P03", -EBUSY},    {"57014", -EBUSY},
    {"57P01", -ENOTCONN}, {"57P02", -ENOTCONN}, {"57P03", -ENOTCONN}, {"57P05", -ENOTCONN},
    {"25P03", -ENOTCONN}, {"25006", -ENOTCONN}, {"53100", -ENOSPC},   {"53200", -ENOMEM},
    {"53300", -ENOTCONN}, {"08", -ENOTCONN},    {"23", -EEXIST},
};

static int pg_errno(const PGconn *db, const PGresult *res)
{
    const char *state = res ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;

    if (PQstatus(db) != CONNECTION_OK || !state)
        return -ENOTCONN;
    for (size_t i = 0; i < ARRAY_SIZE(pg_errors); i++)
        if (strncmp(state, pg_errors[i].state, strlen(pg_errors[i].state)) == 0)
            return pg_errors[i].r;
    return -EIO;
}

static int pg_failed(struct cp_sql *c, const PGresult *res)
{
    PGconn *db = pg_of(c)->db;
    const char *words = res ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;

    if (!words)
        words = PQerrorMessage(db);
    snprintf(c->error, sizeof(c->error), "%.*s", (int)strcspn(words, "\n"), words);
    return pg_errno(db, res);
}

static bool pg_good(const PGresult *res)
{
    ExecStatusType t = PQresultStatus(res);

    return t == PGRES_COMMAND_OK || t == PGRES_TUPLES_OK || t == PGRES_EMPTY_QUERY;
}

static int pg_script(struct cp_sql *c, const char *text)
{
    _cleanup_result_ PGresult *res = PQexec(pg_of(c)->db, text);

    return pg_good(res) ? 0 : pg_failed(c, res);
}

static int pg_connected(struct cp_sql *c)
{
    struct pg_sql *p = pg_of(c);

    if (PQstatus(p->db) == CONNECTION_OK)
        return 0;
    PQreset(p->db);
    p->n_prepared = 0;
    p->locked = false;
    return PQstatus(p->db) == CONNECTION_OK ? pg_script(c, session) : pg_failed(c, NULL);
}

static int pg_begin(struct cp_sql *c)
{
    int r = pg_connected(c);

    if (r == 0)
        r = pg_script(c, "BEGIN");
    /* The server closed it while it was idle, which is seen now. */
    if (r == -ENOTCONN && pg_connected(c) == 0)
        r = pg_script(c, "BEGIN");
    return r;
}

/* COMMIT of a transaction that has failed is answered with ROLLBACK. */
static int pg_commit(struct cp_sql *c)
{
    _cleanup_result_ PGresult *res = PQexec(pg_of(c)->db, "COMMIT");

    if (!pg_good(res))
        return pg_failed(c, res);
    if (strcmp(PQcmdStatus(res), "COMMIT") == 0)
        return 0;
    snprintf(c->error, sizeof(c->error), "the transaction was rolled back");
    return -EIO;
}

static void pg_rollback(struct cp_sql *c)
{
    struct pg_sql *p = pg_of(c);

    if (PQstatus(p->db) == CONNECTION_OK && PQtransactionStatus(p->db) != PQTRANS_IDLE)
        PQclear(PQexec(p->db, "ROLLBACK"));
}

static void pg_close(struct cp_sql *c)
{
    struct pg_sql *p = pg_of(c);

    PQfinish(p->db);
    free(p);
}

struct pg_params {
    Oid types[CP_SQL_ARGS_MAX];
    const char *values[CP_SQL_ARGS_MAX];
    int lengths[CP_SQL_ARGS_MAX], formats[CP_SQL_ARGS_MAX];
    char numbers[CP_SQL_ARGS_MAX][24];
};

static void pg_describe(const struct cp_sql_arg *args, int n, struct pg_params *p)
{
    for (int i = 0; i < n; i++) {
        const struct cp_sql_arg *a = &args[i];

        p->lengths[i] = 0;
        p->formats[i] = a->type == 'b';
        switch (a->type) {
        case 'i':
            p->types[i] = OID_INT8;
            snprintf(p->numbers[i], sizeof(p->numbers[i]), "%" PRId64, a->i);
            p->values[i] = p->numbers[i];
            break;
        case 't':
            p->types[i] = OID_TEXT;
            p->values[i] = a->text;
            break;
        default:
            p->types[i] = OID_BYTEA;
            p->values[i] = a->len ? a->blob : "";
            p->lengths[i] = (int)a->len;
        }
    }
}

/* The statement's name; made on this connection when it is new. */
static int pg_prepare(struct cp_sql *c, const char *sql, const struct pg_params *p, int n,
                      char name[static 8])
{
    struct pg_sql *s = pg_of(c);
    int i = 0;

    while (i < s->n_prepared && s->prepared[i] != sql)
        i++;
    snprintf(name, 8, "s%d", i % STATEMENTS_MAX);
    if (i < s->n_prepared)
        return 0;
    if (i == STATEMENTS_MAX)
        return -E2BIG;
    _cleanup_result_ PGresult *res = PQprepare(s->db, name, sql, n, p->types);

    if (!pg_good(res))
        return pg_failed(c, res);
    s->prepared[s->n_prepared++] = sql;
    return 0;
}

static int pg_run_once(struct cp_sql *c, const char *sql, const struct cp_sql_arg *args, int n,
                       struct cp_rows **ret)
{
    _cleanup_result_ PGresult *res = NULL;
    struct pg_params p;
    char name[8];
    int r;

    /* Inside a transaction a lost connection is lost; begin makes a new one. */
    r = c->open ? 0 : pg_connected(c);
    if (r < 0)
        return r;
    pg_describe(args, n, &p);
    r = pg_prepare(c, sql, &p, n, name);
    if (r == -E2BIG)
        res = PQexecParams(pg_of(c)->db, sql, n, p.types, p.values, p.lengths, p.formats, 0);
    else if (r < 0)
        return r;
    else
        res = PQexecPrepared(pg_of(c)->db, name, n, p.values, p.lengths, p.formats, 0);
    if (!pg_good(res))
        return pg_failed(c, res);
    if (!ret)
        return atoi(PQcmdTuples(res));
    *ret = calloc(1, sizeof(**ret));
    if (!*ret)
        return -ENOMEM;
    **ret = (struct cp_rows){.c = c, .result = TAKE_PTR(res), .row = -1};
    return 0;
}

/* What writes is in a transaction. A statement alone reads: when the connection was lost while it was idle,
 * which is seen only now, it may be said again. */
static int pg_run(struct cp_sql *c, const char *sql, const struct cp_sql_arg *args, int n,
                  struct cp_rows **ret)
{
    int r = pg_run_once(c, sql, args, n, ret);

    return r == -ENOTCONN && !c->open ? pg_run_once(c, sql, args, n, ret) : r;
}

static int pg_next(struct cp_rows *r)
{
    return ++r->row < PQntuples(r->result);
}

static bool pg_is_null(struct cp_rows *r, int column)
{
    return PQgetisnull(r->result, r->row, column);
}

static int64_t pg_get_int(struct cp_rows *r, int column)
{
    return strtoll(PQgetvalue(r->result, r->row, column), NULL, 10);
}

static const char *pg_get_text(struct cp_rows *r, int column)
{
    return PQgetvalue(r->result, r->row, column);
}

/* \x and hex digits */
static int pg_get_blob(struct cp_rows *r, int column, void *out, size_t size, size_t *ret_len)
{
    const char *text = PQgetvalue(r->result, r->row, column);
    size_t n = strlen(text);

    if (n < 2 || text[0] != '\\' || text[1] != 'x')
        return -EBADMSG;
    n = (n - 2) / 2;
    if (n > size)
        return -EFBIG;
    *ret_len = n;
    return n > 0 ? tb_hex_decode(text + 2, 2 * n, out, n) : 0;
}

static void pg_free_rows(struct cp_rows *r)
{
    PQclear(r->result);
}

/* A session's lock, asked for once: it is counted. */
static int pg_lock(struct cp_sql *c)
{
    struct pg_sql *p = pg_of(c);
    int64_t had = 0;
    int r;

    if (p->locked) { /* on this connection, if it is still the one */
        r = cp_sql_int(c, &had, 0, "SELECT 1", "");
        if (r < 0 || p->locked)
            return r < 0 ? r : 1;
    }
    r = cp_sql_int(c, &had, 0, "SELECT CASE WHEN pg_try_advisory_lock(7810474204) THEN 1 ELSE 0 END", "");
    p->locked = r == 0 && had;
    return r < 0 ? r : (int)had;
}

static const struct cp_sql_ops pg_ops = {
    .name = "postgresql",
    .close = pg_close,
    .begin = pg_begin,
    .commit = pg_commit,
    .rollback = pg_rollback,
    .script = pg_script,
    .run = pg_run,
    .next = pg_next,
    .is_null = pg_is_null,
    .get_int = pg_get_int,
    .get_text = pg_get_text,
    .get_blob = pg_get_blob,
    .free_rows = pg_free_rows,
    .lock = pg_lock,
};

/* libpq's complaint about a URL quotes it, with its password. */
static bool pg_url_valid(const char *url)
{
    PQconninfoOption *o = PQconninfoParse(url, NULL);
    bool ok = o;

    PQconninfoFree(o);
    return ok;
}

int cp_sql_open_postgresql(const char *url, struct cp_sql **ret, char err[static TB_DB_ERR_MAX])
{
    /* what stands before dbname are defaults for what the URL does not say */
    const char *keys[] = {"connect_timeout", "tcp_user_timeout", "fallback_application_name", "dbname", NULL};
    const char *values[] = {"5", "10000", "tb-controlplane", url, NULL};
    struct pg_sql *s;
    int r;

    if (!pg_url_valid(url)) {
        snprintf(err, TB_DB_ERR_MAX,
                 "the URL is not one that libpq understands, like postgresql://USER@HOST/DATABASE");
        return -EINVAL;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->base.ops = &pg_ops;
    s->db = PQconnectdbParams(keys, values, 1);
    r = PQstatus(s->db) == CONNECTION_OK ? pg_script(&s->base, session) : pg_failed(&s->base, NULL);
    if (r < 0) {
        snprintf(err, TB_DB_ERR_MAX, "%s", s->base.error);
        pg_close(&s->base);
        return r;
    }
    *ret = &s->base;
    return 0;
}
