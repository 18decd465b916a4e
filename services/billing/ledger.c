/* SPDX-License-Identifier: Apache-2.0 */
#include "ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <sqlite3.h>
#include <string.h>

#include "units.h"

#define SCHEMA_VERSION 1
#define BUSY_MS 10000
#define USEC_PER_HOUR (3600 * TB_USEC_PER_SEC)

static const char schema[] =
    "BEGIN IMMEDIATE;"
    "CREATE TABLE IF NOT EXISTS booked (epoch TEXT NOT NULL, counter TEXT NOT NULL, value INTEGER NOT NULL,"
    " PRIMARY KEY (epoch, counter)) WITHOUT ROWID;"
    /* hour: hours since the epoch, UTC. state: OPEN until the hour's metering event is frozen. */
    "CREATE TABLE IF NOT EXISTS bucket (hour INTEGER NOT NULL, counter TEXT NOT NULL, quantity INTEGER NOT "
    "NULL,"
    " state TEXT NOT NULL DEFAULT 'OPEN', PRIMARY KEY (hour, counter)) WITHOUT ROWID;"
    "PRAGMA user_version = 1;"
    "COMMIT;";

struct tb_ledger {
    sqlite3 *db;
    sqlite3_stmt *get, *set, *add;
};

static int fail(const struct tb_ledger *l, const char *what, char *err)
{
    int code = l->db ? sqlite3_errcode(l->db) : SQLITE_NOMEM;

    snprintf(err, TB_LEDGER_ERR_MAX, "%s: %s", what, l->db ? sqlite3_errmsg(l->db) : "out of memory");
    switch (code) {
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

static int user_version(struct tb_ledger *l, int *ret)
{
    sqlite3_stmt *s = NULL;
    int r = sqlite3_prepare_v2(l->db, "PRAGMA user_version", -1, &s, NULL);

    if (r == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        *ret = sqlite3_column_int(s, 0);
    else
        r = SQLITE_ERROR;
    sqlite3_finalize(s);
    return r == SQLITE_OK ? 0 : -EIO;
}

/* A damaged page would otherwise show up in the middle of a booking. */
static int check(struct tb_ledger *l, char *err)
{
    sqlite3_stmt *s = NULL;
    int good = sqlite3_prepare_v2(l->db, "PRAGMA quick_check(1)", -1, &s, NULL) == SQLITE_OK &&
               sqlite3_step(s) == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(s, 0), "ok") == 0;

    sqlite3_finalize(s);
    if (good)
        return 0;
    snprintf(err, TB_LEDGER_ERR_MAX,
             "the database is damaged; move it away for examination and restart, the open usage "
             "counters are booked anew from their last durable value");
    return -EBADMSG;
}

static int prepare(struct tb_ledger *l, char *err)
{
    static const char get[] = "SELECT value FROM booked WHERE epoch = ?1 AND counter = ?2";
    static const char set[] =
        "INSERT INTO booked VALUES (?1, ?2, ?3) ON CONFLICT (epoch, counter) DO UPDATE SET value = ?3";
    static const char add[] = "INSERT INTO bucket (hour, counter, quantity) VALUES (?1, ?2, ?3)"
                              " ON CONFLICT (hour, counter) DO UPDATE SET quantity = quantity + ?3";

    if (sqlite3_prepare_v2(l->db, get, -1, &l->get, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(l->db, set, -1, &l->set, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(l->db, add, -1, &l->add, NULL) != SQLITE_OK)
        return fail(l, "preparing statements", err);
    return 0;
}

static int set_up(struct tb_ledger *l, int readonly, char *err)
{
    int version = 0, r;

    sqlite3_busy_timeout(l->db, BUSY_MS);
    if (!readonly && sqlite3_exec(l->db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;", NULL, NULL,
                                  NULL) != SQLITE_OK)
        return fail(l, "opening", err);
    if (user_version(l, &version) < 0)
        return fail(l, "opening", err);
    if (version > SCHEMA_VERSION) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "schema version %d is newer than this program's %d; upgrade TrustBridge", version,
                 SCHEMA_VERSION);
        return -EBADMSG;
    }
    r = check(l, err);
    if (r < 0)
        return r;
    if (version < SCHEMA_VERSION && !readonly && sqlite3_exec(l->db, schema, NULL, NULL, NULL) != SQLITE_OK)
        return fail(l, "creating tables", err);
    return readonly ? 0 : prepare(l, err);
}

int tb_ledger_open(const char *path, int readonly, struct tb_ledger **ret, char err[static TB_LEDGER_ERR_MAX])
{
    _cleanup_ledger_ struct tb_ledger *l = calloc(1, sizeof(*l));
    int flags = readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, r;

    if (!l)
        return -ENOMEM;
    if (sqlite3_open_v2(path, &l->db, flags | SQLITE_OPEN_NOFOLLOW, NULL) != SQLITE_OK)
        return fail(l, "opening", err);
    r = set_up(l, readonly, err);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(l);
    return 0;
}

void tb_ledger_close(struct tb_ledger *l)
{
    if (!l)
        return;
    sqlite3_finalize(l->get);
    sqlite3_finalize(l->set);
    sqlite3_finalize(l->add);
    sqlite3_close(l->db);
    free(l);
}

static int step_done(sqlite3_stmt *s)
{
    int r = sqlite3_step(s);

    sqlite3_reset(s);
    return r == SQLITE_DONE ? 0 : -EIO;
}

static int last_booked(struct tb_ledger *l, const char *epoch, const char *counter, uint64_t *ret)
{
    int r;

    sqlite3_bind_text(l->get, 1, epoch, -1, SQLITE_STATIC);
    sqlite3_bind_text(l->get, 2, counter, -1, SQLITE_STATIC);
    r = sqlite3_step(l->get);
    *ret = r == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(l->get, 0) : 0;
    sqlite3_reset(l->get);
    return r == SQLITE_ROW || r == SQLITE_DONE ? 0 : -EIO;
}

static int book_one(struct tb_ledger *l, const struct tb_usage_snapshot *s, enum tb_usage_counter c,
                    int64_t hour, uint64_t *booked, char *err)
{
    const char *name = tb_usage_name(c);
    uint64_t last, now = s->value[c];

    if (last_booked(l, s->epoch, name, &last) < 0)
        return fail(l, "reading", err);
    if (now == last)
        return 0;
    if (now < last) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "counter %s went back from %" PRIu64 " to %" PRIu64 " in epoch %.8s; nothing is booked",
                 name, last, now, s->epoch);
        return -EBADMSG;
    }
    sqlite3_bind_text(l->set, 1, s->epoch, -1, SQLITE_STATIC);
    sqlite3_bind_text(l->set, 2, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(l->set, 3, (sqlite3_int64)now);
    sqlite3_bind_int64(l->add, 1, hour);
    sqlite3_bind_text(l->add, 2, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(l->add, 3, (sqlite3_int64)(now - last));
    if (step_done(l->set) < 0 || step_done(l->add) < 0)
        return fail(l, "booking", err);
    *booked += now - last;
    return 0;
}

int tb_ledger_book(struct tb_ledger *l, const struct tb_usage_snapshot *s, uint64_t realtime_us,
                   uint64_t *ret_booked, char err[static TB_LEDGER_ERR_MAX])
{
    uint64_t booked = 0;
    int r = 0;

    if (sqlite3_exec(l->db, "BEGIN IMMEDIATE", NULL, NULL, NULL) != SQLITE_OK)
        return fail(l, "starting a booking", err);
    for (int c = 0; c < _TB_USAGE_MAX && r == 0; c++)
        r = book_one(l, s, (enum tb_usage_counter)c, (int64_t)(realtime_us / USEC_PER_HOUR), &booked, err);
    if (r == 0 && sqlite3_exec(l->db, "COMMIT", NULL, NULL, NULL) != SQLITE_OK)
        r = fail(l, "committing a booking", err);
    if (r < 0) {
        (void)sqlite3_exec(l->db, "ROLLBACK", NULL, NULL, NULL);
        return r;
    }
    *ret_booked = booked;
    return 0;
}

int tb_ledger_total(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret)
{
    sqlite3_stmt *s = NULL;
    int r = sqlite3_prepare_v2(l->db, "SELECT COALESCE(SUM(quantity), 0) FROM bucket WHERE counter = ?1", -1,
                               &s, NULL);

    if (r == SQLITE_OK) {
        sqlite3_bind_text(s, 1, tb_usage_name(c), -1, SQLITE_STATIC);
        r = sqlite3_step(s);
        if (r == SQLITE_ROW)
            *ret = (uint64_t)sqlite3_column_int64(s, 0);
    }
    sqlite3_finalize(s);
    return r == SQLITE_ROW ? 0 : -EIO;
}

static void print_row(FILE *out, int json, int first, sqlite3_stmt *s)
{
    char hour[TB_RFC3339_MAX];

    tb_rfc3339_format((uint64_t)sqlite3_column_int64(s, 0) * USEC_PER_HOUR, 0, hour);
    if (json)
        fprintf(out, "%s{\"hour\":\"%s\",\"counter\":\"%s\",\"quantity\":%lld,\"state\":\"%s\"}",
                first ? "" : ",", hour, sqlite3_column_text(s, 1), sqlite3_column_int64(s, 2),
                sqlite3_column_text(s, 3));
    else
        fprintf(out, "%-22s %-18s %16lld  %s\n", hour, sqlite3_column_text(s, 1), sqlite3_column_int64(s, 2),
                sqlite3_column_text(s, 3));
}

int tb_ledger_print(struct tb_ledger *l, FILE *out, int json, char err[static TB_LEDGER_ERR_MAX])
{
    static const char sql[] = "SELECT hour, counter, quantity, state FROM bucket ORDER BY hour, counter";
    sqlite3_stmt *s = NULL;
    int r, n = 0;

    if (sqlite3_prepare_v2(l->db, sql, -1, &s, NULL) != SQLITE_OK)
        return fail(l, "reading", err);
    if (json)
        fputc('[', out);
    else
        fprintf(out, "%-22s %-18s %16s  %s\n", "HOUR (UTC)", "COUNTER", "QUANTITY", "STATE");
    while ((r = sqlite3_step(s)) == SQLITE_ROW)
        print_row(out, json, n++ == 0, s);
    if (json)
        fputs("]\n", out);
    sqlite3_finalize(s);
    return r == SQLITE_DONE ? 0 : fail(l, "reading", err);
}
