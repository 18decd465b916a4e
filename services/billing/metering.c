/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/metering.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/hex.h"
#include "common/secret.h"

static int64_t hour_of(uint64_t realtime_us)
{
    return (int64_t)(realtime_us / TB_USEC_PER_HOUR);
}

/* Hours that began at or before this are too old to be sent. */
static int64_t last_stale_hour(uint64_t realtime_us)
{
    return realtime_us < TB_LEDGER_LATEST_US ? -1 : hour_of(realtime_us - TB_LEDGER_LATEST_US);
}

static const struct tb_usage_dimension *dimension_named(const char *name)
{
    for (int i = 0; i < TB_USAGE_DIMENSIONS; i++)
        if (strcmp(tb_usage_dimension[i].name, name) == 0)
            return &tb_usage_dimension[i];
    return NULL;
}

/* -- time passes ----------------------------------------------------------------------------------------- */

static int metering_to_open_hour(struct tb_ledger *l, uint64_t realtime_us, const char *dimension,
                                 int64_t quantity, int64_t since)
{
    int64_t open;
    int r = tb_ledger_open_hour(l, realtime_us, &open);

    return r < 0 ? r : tb_ledger_event_add(l, open, dimension, quantity, since);
}

/* Moves every event that `where` selects (?1 is hour) into the open hour. One at a time: each changes what
 * the next one finds. */
static int metering_move_all(struct tb_ledger *l, uint64_t realtime_us, const char *where, int64_t hour,
                             unsigned *ret_moved)
{
    _cleanup_free_ char *sql = NULL;

    if (asprintf(&sql, "SELECT hour, dimension, quantity, since FROM event WHERE %s LIMIT 1", where) < 0)
        return -ENOMEM;
    for (;;) {
        _cleanup_stmt_ sqlite3_stmt *s = NULL;
        char name[32];
        int64_t quantity, since;
        int r = tb_db_prepare(l->db, &s, sql, "i", hour);

        if (r == 0)
            r = tb_db_step(s);
        if (r <= 0)
            return r;
        tb_db_column_text(s, 1, name, sizeof(name));
        quantity = sqlite3_column_int64(s, 2);
        since = sqlite3_column_int64(s, 3);
        r = tb_db_run(l->db, "DELETE FROM event WHERE hour = ?1 AND dimension = ?2", "it",
                      sqlite3_column_int64(s, 0), name);
        tb_stmt_finalizep(&s);
        if (r >= 0)
            r = r == 1 ? metering_to_open_hour(l, realtime_us, name, quantity, since) : -EIO;
        if (r < 0)
            return r;
        (*ret_moved)++;
    }
}

/* A random (version 4) GUID for each hour that freezes. */
static void batch_make_request_id(char out[static BILLING_REQUEST_ID_MAX])
{
    uint8_t b[16] = {0};
    char hex[33];

    (void)tb_random(b, sizeof(b));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    tb_hex_encode(b, sizeof(b), hex);
    snprintf(out, BILLING_REQUEST_ID_MAX, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
             hex + 20);
}

static int metering_freeze(struct tb_ledger *l, uint64_t realtime_us)
{
    int64_t over = realtime_us < TB_LEDGER_GRACE_US ? 0 : hour_of(realtime_us - TB_LEDGER_GRACE_US);

    for (;;) {
        char id[BILLING_REQUEST_ID_MAX];
        int64_t hour;
        int r = tb_db_int(l->db, &hour, -1, "SELECT min(hour) FROM event WHERE state = 'OPEN' AND hour < ?1",
                          "i", over);

        if (r < 0 || hour < 0)
            return r;
        batch_make_request_id(id);
        r = tb_db_run(l->db,
                      "UPDATE event SET state = 'FROZEN', request_id = ?2 WHERE hour = ?1 AND state = 'OPEN'",
                      "it", hour, id);
        if (r < 0)
            return r;
    }
}

static int metering_advance(struct tb_ledger *l, uint64_t now_us, unsigned *ret_moved)
{
    unsigned relabelled = 0;
    int64_t open;
    int r;

    /* The clock was ahead: what it froze too early is open again. The marketplace has none of it. */
    r = metering_move_all(l, now_us, "state IN ('FROZEN', 'PARKED') AND doubt = 0 AND hour > ?1",
                          hour_of(now_us), &relabelled);
    if (r == 0)
        r = metering_move_all(l, now_us, "state IN ('FROZEN', 'PARKED') AND doubt = 0 AND hour <= ?1",
                              last_stale_hour(now_us), ret_moved);
    if (r == 0)
        r = metering_move_all(l, now_us, "state = 'OPEN' AND hour <= ?1", last_stale_hour(now_us), ret_moved);
    if (r == 0)
        r = tb_ledger_open_hour(l, now_us, &open);
    if (r == 0)
        r = metering_move_all(l, now_us, "state = 'OPEN' AND hour > ?1", open, &relabelled);
    return r < 0 ? r : metering_freeze(l, now_us);
}

int tb_metering_advance(struct tb_ledger *l, uint64_t realtime_us, unsigned *ret_moved,
                        char err[static TB_LEDGER_ERR_MAX])
{
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, l->db, err);

    *ret_moved = 0;
    if (r == 0)
        r = metering_advance(l, realtime_us, ret_moved);
    return tb_db_end(&tx, r, "closing hours", err);
}

/* -- sending --------------------------------------------------------------------------------------------- */

#define DUE                                                                                                  \
    "(state IN ('FROZEN', 'SENT') OR (state = 'PARKED' AND ?1 AND hour > ?2)) AND (hour, dimension) > (?3, " \
    "?4)"

int tb_metering_due(struct tb_ledger *l, uint64_t realtime_us, bool parked, bool *ret)
{
    int64_t any;
    int r = tb_db_int(l->db, &any, 0, "SELECT EXISTS (SELECT 1 FROM event WHERE " DUE ")", "iiit",
                      (int64_t)parked, last_stale_hour(realtime_us), INT64_C(-1), "");

    *ret = r == 0 && any;
    return r;
}

static int batch_take_row(struct tb_metering_batch *b, sqlite3_stmt *s, char *err)
{
    const char *name = (const char *)sqlite3_column_text(s, 1), *id = (const char *)sqlite3_column_text(s, 6);
    struct tb_metering_event *e = &b->event[b->n];

    *e = (struct tb_metering_event){.dimension = dimension_named(name),
                                    .quantity = sqlite3_column_int64(s, 2),
                                    .since = sqlite3_column_int64(s, 3),
                                    .parked = strcmp((const char *)sqlite3_column_text(s, 4), "PARKED") == 0,
                                    .doubt = sqlite3_column_int(s, 5)};
    if (!e->dimension) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "dimension \"%.40s\" is not known to this version; upgrade TrustBridge", name);
        return -EBADMSG;
    }
    if (b->n++ == 0)
        snprintf(b->request_id, sizeof(b->request_id), "%s", id ? id : "");
    return 0;
}

static int batch_mark_sent(struct tb_ledger *l, const struct tb_metering_batch *b)
{
    for (unsigned i = 0; i < b->n; i++) {
        int r = tb_db_run(l->db,
                          "UPDATE event SET state = 'SENT', doubt = 1, tries = tries + 1 WHERE hour = ?1 AND "
                          "dimension = ?2",
                          "it", b->hour, b->event[i].dimension->name);

        if (r < 0)
            return r;
    }
    return 0;
}

/* Fills b from rows in the order of their hours, with those of the first hour. */
static int batch_take_rows(sqlite3_stmt *s, unsigned most, struct tb_metering_batch *b, char *err)
{
    int r;

    while ((r = tb_db_step(s)) > 0 && b->n < most) {
        if (b->n > 0 && sqlite3_column_int64(s, 0) != b->hour)
            break;
        b->hour = sqlite3_column_int64(s, 0);
        r = batch_take_row(b, s, err);
        if (r < 0)
            return r;
    }
    return MIN(r, 0);
}

int tb_metering_take(struct tb_ledger *l, uint64_t realtime_us, bool parked, int64_t after_hour,
                     const char *after_dimension, unsigned most, struct tb_metering_batch *ret,
                     char err[static TB_LEDGER_ERR_MAX])
{
    static const char due[] =
        "SELECT hour, dimension, quantity, since, state, doubt, request_id FROM event WHERE " DUE
        " ORDER BY hour, dimension";
    _cleanup_tx_ struct tb_db_tx tx = {0};
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_begin(&tx, l->db, err);

    *ret = (struct tb_metering_batch){0};
    if (r == 0)
        r = tb_db_prepare(l->db, &s, due, "iiit", (int64_t)parked, last_stale_hour(realtime_us), after_hour,
                          after_dimension);
    if (r == 0)
        r = batch_take_rows(s, MIN(most, (unsigned)TB_USAGE_DIMENSIONS), ret, err);
    tb_stmt_finalizep(&s);
    if (r == 0)
        r = batch_mark_sent(l, ret);
    return tb_db_end(&tx, r, "taking an hour to be sent", err);
}

/* -- what became of it ----------------------------------------------------------------------------------- */

#define THIS_SENT " WHERE hour = ?1 AND dimension = ?2 AND state = 'SENT'"

/* One event's settlement, within a transaction. */
struct settling {
    struct tb_ledger *l;
    uint64_t realtime_us;
    int64_t hour;
    const struct tb_metering_event *event;
    const struct tb_metering_verdict *verdict;
};

static int settle_accepted(const struct settling *t)
{
    const struct tb_metering_event *e = t->event;
    const struct tb_metering_verdict *v = t->verdict;
    int64_t rest = e->quantity - v->accepted;
    int r = tb_db_run(t->l->db,
                      "UPDATE event SET state = 'ACCEPTED', doubt = 0, quantity = min(quantity, ?3), "
                      "accepted = ?3, reason = ?4" THIS_SENT,
                      "itit", t->hour, e->dimension->name, v->accepted, *v->reason ? v->reason : NULL);

    if (r <= 0)
        return r;
    if (!v->duplicate)
        r = tb_db_run(t->l->db, "DELETE FROM meta WHERE key = 'ended'", NULL);
    return r < 0 || rest <= 0
               ? r
               : metering_to_open_hour(t->l, t->realtime_us, e->dimension->name, rest, e->since);
}

static int settle_back(const struct settling *t, const char *state, const char *reason)
{
    const struct tb_metering_event *e = t->event;

    return tb_db_run(t->l->db,
                     "UPDATE event SET state = ?3, doubt = ?4, reason = coalesce(?5, reason)" THIS_SENT,
                     "ittit", t->hour, e->dimension->name, state, (int64_t)e->doubt, reason);
}

static int settle_expired(const struct settling *t)
{
    static const char doubt[] =
        "too old to be sent again, and an earlier request with it had no answer: see whether the "
        "marketplace has it";
    const struct tb_metering_event *e = t->event;
    int r;

    if (e->doubt)
        return settle_back(t, "PARKED", doubt);
    r = tb_db_run(t->l->db, "DELETE FROM event" THIS_SENT, "it", t->hour, e->dimension->name);
    return r <= 0 ? r
                  : metering_to_open_hour(t->l, t->realtime_us, e->dimension->name, e->quantity, e->since);
}

static int settle_one(const struct settling *t)
{
    const struct tb_metering_event *e = t->event;
    int r;

    switch (t->verdict->outcome) {
    case TB_METERING_UNKNOWN:
        return 0;
    case TB_METERING_UNSENT:
        return settle_back(t, e->parked ? "PARKED" : e->doubt ? "SENT" : "FROZEN", NULL);
    case TB_METERING_ACCEPTED:
        return settle_accepted(t);
    case TB_METERING_EXPIRED:
        return settle_expired(t);
    case TB_METERING_ENDED:
        r = tb_db_run(t->l->db, "INSERT INTO meta VALUES ('ended', ?1) ON CONFLICT (key) DO NOTHING", "t",
                      t->verdict->reason);
        if (r < 0)
            return r;
        /* fall through */
    case TB_METERING_REFUSED:
        return settle_back(t, "PARKED", t->verdict->reason);
    }
    return 0;
}

int tb_metering_settle(struct tb_ledger *l, const struct tb_metering_batch *b,
                       const struct tb_metering_verdict *v, uint64_t realtime_us,
                       char err[static TB_LEDGER_ERR_MAX])
{
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, l->db, err);

    assert(b->n <= TB_USAGE_DIMENSIONS);
    for (unsigned i = 0; i < b->n && r >= 0; i++)
        r = settle_one(&(struct settling){
            .l = l, .realtime_us = realtime_us, .hour = b->hour, .event = &b->event[i], .verdict = &v[i]});
    return tb_db_end(&tx, r, "entering an answer", err);
}

#define THIS_IN_DOUBT " WHERE hour = ?1 AND dimension = ?2 AND state = 'PARKED' AND doubt = 1"

int tb_metering_resolve(struct tb_ledger *l, int64_t hour, const char *dimension, bool accepted,
                        char err[static TB_LEDGER_ERR_MAX])
{
    /* FROZEN and certain: if it is too old to be sent, the next advance brings it into the open hour. */
    static const char accept[] =
        "UPDATE event SET state = 'ACCEPTED', doubt = 0, accepted = quantity" THIS_IN_DOUBT;
    static const char take_back[] = "UPDATE event SET state = 'FROZEN', doubt = 0" THIS_IN_DOUBT;
    int r = tb_db_run(l->db, accepted ? accept : take_back, "it", hour, dimension);

    err[0] = '\0';
    if (r < 0)
        return tb_db_error(l->db, r, "resolving an event", err);
    if (r > 0)
        return 0;
    snprintf(err, TB_LEDGER_ERR_MAX, "no parked event in doubt of this hour and dimension");
    return -ENOENT;
}

int tb_metering_ended(struct tb_ledger *l, char ret[static TB_METERING_REASON_MAX])
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(l->db, &s, "SELECT value FROM meta WHERE key = 'ended'", NULL);

    *ret = '\0';
    if (r == 0)
        r = tb_db_step(s);
    if (r > 0)
        tb_db_column_text(s, 0, ret, TB_METERING_REASON_MAX);
    return MIN(r, 0);
}
