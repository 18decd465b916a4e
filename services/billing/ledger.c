/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/ledger.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/ledger_schema.h"

static const char schema[] =
    "CREATE TABLE IF NOT EXISTS booked (epoch TEXT NOT NULL, counter TEXT NOT NULL, value INTEGER NOT NULL,"
    " PRIMARY KEY (epoch, counter)) WITHOUT ROWID;"
    "CREATE TABLE used (hour INTEGER NOT NULL, counter TEXT NOT NULL, quantity INTEGER NOT NULL,"
    " PRIMARY KEY (hour, counter)) WITHOUT ROWID;"
    /* quantity: in what the counters count. since: the oldest hour that some of it is from. doubt: a request
     * with it may have arrived. accepted: what the marketplace says it has for this hour. */
    "CREATE TABLE event (hour INTEGER NOT NULL, dimension TEXT NOT NULL, quantity INTEGER NOT NULL,"
    " state TEXT NOT NULL DEFAULT 'OPEN', doubt INTEGER NOT NULL DEFAULT 0, since INTEGER NOT NULL,"
    " request_id TEXT, tries INTEGER NOT NULL DEFAULT 0, accepted INTEGER, reason TEXT,"
    " PRIMARY KEY (hour, dimension)) WITHOUT ROWID;"
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"
    "PRAGMA user_version = 2;";

/* Beside version 2, whose programs do not look at it: steps of the clock that were noticed. at: seconds
 * since 1970, the time that is billed by; off: seconds. */
static const char steps[] =
    "CREATE TABLE IF NOT EXISTS step (at INTEGER NOT NULL, event TEXT NOT NULL, off INTEGER NOT NULL);";

/* A damaged page would otherwise show up in the middle of a booking. */
static int ledger_check(struct tb_ledger *l, char *err)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;

    if (tb_db_prepare(l->db, &s, "PRAGMA quick_check(1)", NULL) == 0 && tb_db_step(s) > 0 &&
        strcmp((const char *)sqlite3_column_text(s, 0), "ok") == 0)
        return 0;
    snprintf(err, TB_LEDGER_ERR_MAX,
             "the database is damaged; restore a copy of it. A new ledger would bill all that the usage "
             "counters hold once more, "
             "so to begin anew stop tb-proxy and move its usage file away too");
    return -EBADMSG;
}

/* Version 1 had one table of hourly counters, none of which was ever sent. */
static int ledger_bill_version_1(struct tb_ledger *l)
{
    for (int d = 0; d < TB_USAGE_DIMENSIONS; d++)
        for (int c = 0; c < _TB_USAGE_MAX; c++) {
            int r;

            if (!(l->dimensions & 1U << d) || !(tb_usage_dimension[d].counters & 1U << c))
                continue;
            r = tb_db_run(
                l->db,
                "INSERT INTO event (hour, dimension, quantity, since)"
                " SELECT hour, ?1, quantity, hour FROM used WHERE counter = ?2"
                " ON CONFLICT (hour, dimension) DO UPDATE SET quantity = quantity + excluded.quantity",
                "tt", tb_usage_dimension[d].name, tb_usage_name((enum tb_usage_counter)c));
            if (r < 0)
                return r;
        }
    return 0;
}

static int ledger_bring_up_to_date(struct tb_ledger *l)
{
    int64_t version;
    int r;

    /* Again, inside the transaction: another process may have done it meanwhile. */
    r = tb_db_int(l->db, &version, 0, "PRAGMA user_version", NULL);
    if (r < 0 || version >= TB_LEDGER_SCHEMA_VERSION)
        return r;
    r = tb_db_exec(l->db, schema);
    if (r < 0 || version == 0)
        return r;
    r = tb_db_exec(l->db, "INSERT INTO used SELECT hour, counter, quantity FROM bucket; DROP TABLE bucket;");
    return r < 0 ? r : ledger_bill_version_1(l);
}

static int ledger_migrate(struct tb_ledger *l, char *err)
{
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, l->db, err);

    if (r == 0)
        r = ledger_bring_up_to_date(l);
    return tb_db_end(&tx, r, "bringing the tables up to date", err);
}

static int ledger_prepare(struct tb_ledger *l, char *err)
{
    int r = tb_db_prepare(l->db, &l->get, "SELECT value FROM booked WHERE epoch = ?1 AND counter = ?2", NULL);

    if (r == 0)
        r = tb_db_prepare(
            l->db, &l->set,
            "INSERT INTO booked VALUES (?1, ?2, ?3) ON CONFLICT (epoch, counter) DO UPDATE SET value = ?3",
            NULL);
    if (r == 0)
        r = tb_db_prepare(l->db, &l->add,
                          "INSERT INTO used VALUES (?1, ?2, ?3)"
                          " ON CONFLICT (hour, counter) DO UPDATE SET quantity = quantity + ?3",
                          NULL);
    return r < 0 ? tb_db_error(l->db, r, "preparing statements", err) : 0;
}

static int ledger_read_elsewhere(struct tb_ledger *l, char *err)
{
    int64_t there = 0;
    int r = tb_db_int(l->db, &there, 0, "SELECT EXISTS (SELECT 1 FROM meta WHERE key = 'billed_by')", NULL);

    l->elsewhere = there;
    return r < 0 ? tb_db_error(l->db, r, "reading", err) : 0;
}

static int ledger_set_up(struct tb_ledger *l, bool readonly, char *err)
{
    int64_t version;
    int r = tb_db_int(l->db, &version, 0, "PRAGMA user_version", NULL);

    if (r < 0)
        return tb_db_error(l->db, r, "opening", err);
    if (version > TB_LEDGER_SCHEMA_VERSION) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "schema version %" PRId64 " is newer than this program's %d; upgrade TrustBridge", version,
                 TB_LEDGER_SCHEMA_VERSION);
        return -EBADMSG;
    }
    r = ledger_check(l, err);
    if (r < 0)
        return r;
    if (version < TB_LEDGER_SCHEMA_VERSION && readonly) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "schema version %" PRId64 " is an older one; start tb-billing, which brings it up to date",
                 version);
        return -EBADMSG;
    }
    if (version < TB_LEDGER_SCHEMA_VERSION)
        r = ledger_migrate(l, err);
    if (r == 0 && !readonly && tb_db_exec(l->db, steps) < 0)
        return tb_db_error(l->db, -EIO, "making a table", err);
    if (r == 0)
        r = ledger_read_elsewhere(l, err);
    return r < 0 || readonly ? r : ledger_prepare(l, err);
}

int tb_ledger_open(const char *path, bool readonly, uint32_t dimensions, struct tb_ledger **ret,
                   char err[static TB_LEDGER_ERR_MAX])
{
    _cleanup_ledger_ struct tb_ledger *l = calloc(1, sizeof(*l));
    int flags = readonly ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, r;

    err[0] = '\0';
    if (!l)
        return tb_db_error(NULL, -ENOMEM, "opening", err);
    l->dimensions = dimensions;
    r = tb_db_open(path, flags | SQLITE_OPEN_NOFOLLOW, &l->db, err);
    if (r == 0)
        r = ledger_set_up(l, readonly, err);
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
    tb_db_closep(&l->db);
    free(l);
}

int tb_ledger_open_hour(struct tb_ledger *l, uint64_t realtime_us, int64_t *ret)
{
    int64_t hour = (int64_t)(realtime_us / TB_USEC_PER_HOUR), taken;

    for (;; hour++) {
        int r =
            tb_db_int(l->db, &taken, 0,
                      "SELECT EXISTS (SELECT 1 FROM event WHERE hour = ?1 AND state != 'OPEN')", "i", hour);

        if (r < 0)
            return r;
        if (!taken)
            break;
    }
    *ret = hour;
    return 0;
}

int tb_ledger_event_add(struct tb_ledger *l, int64_t hour, const char *dimension, int64_t quantity,
                        int64_t since)
{
    int r = tb_db_run(
        l->db,
        "INSERT INTO event (hour, dimension, quantity, since) VALUES (?1, ?2, ?3, ?4)"
        " ON CONFLICT (hour, dimension) DO UPDATE SET quantity = quantity + ?3, since = min(since, ?4)",
        "itii", hour, dimension, quantity, since);

    return r < 0 ? r : 0;
}

/* Steps a statement that is kept, and readies it for the next time. */
static int ledger_step(sqlite3_stmt *s)
{
    int r = tb_db_step(s);

    sqlite3_reset(s);
    return r;
}

static int booking_last(struct tb_ledger *l, const char *epoch, const char *counter, uint64_t *ret)
{
    int r;

    sqlite3_bind_text(l->get, 1, epoch, -1, SQLITE_STATIC);
    sqlite3_bind_text(l->get, 2, counter, -1, SQLITE_STATIC);
    r = tb_db_step(l->get);
    *ret = r > 0 ? (uint64_t)sqlite3_column_int64(l->get, 0) : 0;
    sqlite3_reset(l->get);
    return MIN(r, 0);
}

struct booking {
    struct tb_ledger *l;
    const struct tb_usage_snapshot *s;
    uint64_t realtime_us, booked;
    uint64_t more[_TB_USAGE_MAX]; /* increments */
    char *err;
};

static int booking_counter(struct booking *b, enum tb_usage_counter c, int64_t hour)
{
    const struct tb_usage_snapshot *s = b->s;
    const char *name = tb_usage_name(c);
    uint64_t last, now = s->value[c];
    int r = booking_last(b->l, s->epoch, name, &last);

    if (r < 0 || now == last)
        return r;
    if (now < last) {
        snprintf(b->err, TB_LEDGER_ERR_MAX,
                 "counter %s went back from %" PRIu64 " to %" PRIu64 " in epoch %.8s; nothing is booked",
                 name, last, now, s->epoch);
        return -EBADMSG;
    }
    sqlite3_bind_text(b->l->set, 1, s->epoch, -1, SQLITE_STATIC);
    sqlite3_bind_text(b->l->set, 2, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(b->l->set, 3, (sqlite3_int64)now);
    sqlite3_bind_int64(b->l->add, 1, hour);
    sqlite3_bind_text(b->l->add, 2, name, -1, SQLITE_STATIC);
    sqlite3_bind_int64(b->l->add, 3, (sqlite3_int64)(now - last));
    r = ledger_step(b->l->set);
    if (r == 0)
        r = ledger_step(b->l->add);
    if (r < 0)
        return r;
    b->more[c] = now - last;
    b->booked += now - last;
    return 0;
}

static int booking_dimension(struct booking *b, const struct tb_usage_dimension *d, int64_t hour)
{
    uint64_t sum = 0;

    for (int c = 0; c < _TB_USAGE_MAX; c++)
        if (d->counters & 1U << c)
            sum += b->more[c];
    return sum > 0 ? tb_ledger_event_add(b->l, hour, d->name, (int64_t)sum, hour) : 0;
}

static int booking_all(struct booking *b)
{
    int64_t hour;
    int r = tb_ledger_open_hour(b->l, b->realtime_us, &hour);

    for (int c = 0; c < _TB_USAGE_MAX && r == 0; c++)
        r = booking_counter(b, (enum tb_usage_counter)c, hour);
    for (int d = 0; d < TB_USAGE_DIMENSIONS && r == 0; d++)
        if (b->l->dimensions & 1U << d && !b->l->elsewhere)
            r = booking_dimension(b, &tb_usage_dimension[d], hour);
    return r;
}

int tb_ledger_book(struct tb_ledger *l, const struct tb_usage_snapshot *s, uint64_t realtime_us,
                   uint64_t *ret_booked, char err[static TB_LEDGER_ERR_MAX])
{
    struct booking b = {.l = l, .s = s, .realtime_us = realtime_us, .err = err};
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, l->db, err);

    if (r == 0)
        r = booking_all(&b);
    r = tb_db_end(&tx, r, "booking usage", err);
    if (r == 0)
        *ret_booked = b.booked;
    return r;
}

/* -- who bills ------------------------------------------------------------------------------------------- */

static int elsewhere_keep_total(struct tb_ledger *l, enum tb_usage_counter c)
{
    char key[64], text[24];
    uint64_t total = 0;
    int r = tb_ledger_total(l, c, &total);

    if (r < 0)
        return r;
    snprintf(key, sizeof(key), "self_billed.%s", tb_usage_name(c));
    snprintf(text, sizeof(text), "%" PRIu64, total);
    return tb_db_run(l->db, "INSERT INTO meta VALUES (?1, ?2)", "tt", key, text);
}

static int elsewhere_begin(struct tb_ledger *l)
{
    int64_t events = 0;
    int r = tb_db_run(l->db, "INSERT INTO meta VALUES ('billed_by', 'control_plane')", NULL);

    if (r >= 0)
        r = tb_db_int(l->db, &events, 0, "SELECT count(*) FROM event", NULL);
    for (int c = 0; events && r >= 0 && c < _TB_USAGE_MAX; c++)
        r = elsewhere_keep_total(l, (enum tb_usage_counter)c);
    return MIN(r, 0);
}

int tb_ledger_bill_elsewhere(struct tb_ledger *l, bool elsewhere, char err[static TB_LEDGER_ERR_MAX])
{
    static const char forget[] = "DELETE FROM meta WHERE key = 'billed_by' OR key LIKE 'self_billed.%'";
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r;

    err[0] = '\0';
    if (l->elsewhere == elsewhere)
        return 0;
    r = tb_db_begin(&tx, l->db, err);
    if (r == 0)
        r = tb_db_run(l->db, forget, NULL);
    if (r >= 0 && elsewhere)
        r = elsewhere_begin(l);
    r = tb_db_end(&tx, r, "keeping who bills", err);
    if (r == 0)
        l->elsewhere = elsewhere;
    return r;
}

int tb_ledger_self_billed(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret)
{
    char key[64];
    int64_t v = 0;
    int r;

    snprintf(key, sizeof(key), "self_billed.%s", tb_usage_name(c));
    r = tb_db_int(l->db, &v, 0, "SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?1", "t", key);
    *ret = (uint64_t)v;
    return r;
}

int tb_ledger_total(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret)
{
    int64_t v;
    int r =
        tb_db_int(l->db, &v, 0, "SELECT SUM(quantity) FROM used WHERE counter = ?1", "t", tb_usage_name(c));

    if (r == 0)
        *ret = (uint64_t)v;
    return r;
}
