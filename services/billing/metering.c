/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/metering.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

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

static int metering_freeze(struct tb_ledger *l, uint64_t realtime_us)
{
    int64_t over = tb_metering_current_hour(realtime_us, TB_LEDGER_GRACE_US);

    for (;;) {
        char id[TB_METERING_REQUEST_ID_MAX];
        int64_t hour;
        int r = tb_db_int(l->db, &hour, -1, "SELECT min(hour) FROM event WHERE state = 'OPEN' AND hour < ?1",
                          "i", over);

        if (r < 0 || hour < 0)
            return r;
        tb_metering_request_id(id);
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
                          tb_metering_hour(now_us), &relabelled);
    if (r == 0)
        r = metering_move_all(l, now_us, "state IN ('FROZEN', 'PARKED') AND doubt = 0 AND hour <= ?1",
                              tb_metering_stale_hour(now_us), ret_moved);
    if (r == 0)
        r = metering_move_all(l, now_us, "state = 'OPEN' AND hour <= ?1", tb_metering_stale_hour(now_us),
                              ret_moved);
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
                      (int64_t)parked, tb_metering_stale_hour(realtime_us), INT64_C(-1), "");

    *ret = r == 0 && any;
    return r;
}

static int batch_take_row(struct tb_metering_batch *b, sqlite3_stmt *s, char *err)
{
    const char *name = (const char *)sqlite3_column_text(s, 1), *id = (const char *)sqlite3_column_text(s, 6);
    const struct tb_usage_dimension *dimension = dimension_named(name);
    struct tb_metering_event *e = &b->event[b->n];

    *e = (struct tb_metering_event){.hour = sqlite3_column_int64(s, 0),
                                    .unit = dimension ? dimension->unit : 0,
                                    .quantity = sqlite3_column_int64(s, 2),
                                    .since = sqlite3_column_int64(s, 3),
                                    .parked = strcmp((const char *)sqlite3_column_text(s, 4), "PARKED") == 0,
                                    .doubt = sqlite3_column_int(s, 5)};
    if (!dimension) {
        snprintf(err, TB_LEDGER_ERR_MAX,
                 "dimension \"%.40s\" is not known to this version; upgrade TrustBridge", name);
        return -EBADMSG;
    }
    snprintf(e->dimension, sizeof(e->dimension), "%s", name);
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
                          "it", b->event[i].hour, b->event[i].dimension);

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
        if (b->n > 0 && sqlite3_column_int64(s, 0) != b->event[0].hour)
            break;
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
        r = tb_db_prepare(l->db, &s, due, "iiit", (int64_t)parked, tb_metering_stale_hour(realtime_us),
                          after_hour, after_dimension);
    if (r == 0)
        r = batch_take_rows(s, MIN(most, (unsigned)TB_USAGE_DIMENSIONS), ret, err);
    tb_stmt_finalizep(&s);
    if (r == 0)
        r = batch_mark_sent(l, ret);
    return tb_db_end(&tx, r, "taking an hour to be sent", err);
}

/* -- what became of it ----------------------------------------------------------------------------------- */

#define THIS_SENT " WHERE hour = ?1 AND dimension = ?2 AND state = 'SENT'"

static int settle_ended(struct tb_ledger *l, const struct tb_metering_verdict *v,
                        const struct tb_metering_change *c)
{
    if (c->not_ended)
        return tb_db_run(l->db, "DELETE FROM meta WHERE key = 'ended'", NULL);
    return c->ended ? tb_db_run(l->db, "INSERT INTO meta VALUES ('ended', ?1) ON CONFLICT (key) DO NOTHING",
                                "t", v->reason)
                    : 0;
}

/* One event's settlement, within a transaction. */
static int settle_one(struct tb_ledger *l, const struct tb_metering_event *e,
                      const struct tb_metering_verdict *v, uint64_t realtime_us)
{
    struct tb_metering_change c;
    int r;

    tb_metering_decide(e, v, &c);
    if (!c.state)
        return 0;
    if (*c.state == '\0')
        r = tb_db_run(l->db, "DELETE FROM event" THIS_SENT, "it", e->hour, e->dimension);
    else
        r = tb_db_run(l->db,
                      "UPDATE event SET state = ?3, doubt = ?4, quantity = ?5,"
                      " accepted = CASE WHEN ?6 >= 0 THEN ?6 ELSE accepted END,"
                      " reason = CASE WHEN ?7 = '' THEN NULL ELSE coalesce(?7, reason) END" THIS_SENT,
                      "ittiiit", e->hour, e->dimension, c.state, (int64_t)c.doubt, c.quantity, c.accepted,
                      c.reason);
    if (r <= 0)
        return r;
    r = settle_ended(l, v, &c);
    return r < 0 || c.rest <= 0 ? r : metering_to_open_hour(l, realtime_us, e->dimension, c.rest, e->since);
}

int tb_metering_settle(struct tb_ledger *l, const struct tb_metering_batch *b,
                       const struct tb_metering_verdict *v, uint64_t realtime_us,
                       char err[static TB_LEDGER_ERR_MAX])
{
    _cleanup_tx_ struct tb_db_tx tx = {0};
    int r = tb_db_begin(&tx, l->db, err);

    assert(b->n <= TB_USAGE_DIMENSIONS);
    for (unsigned i = 0; i < b->n && r >= 0; i++)
        r = settle_one(l, &b->event[i], &v[i], realtime_us);
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

/* -- for the schedule ------------------------------------------------------------------------------------ */

static int sender_due(void *ctx, uint64_t realtime_us, bool parked, bool *ret,
                      char err[static TB_METERING_ERR_MAX])
{
    struct billing_sender *s = ctx;
    int r = tb_metering_due(s->l, realtime_us, parked, ret);

    err[0] = '\0';
    return r < 0 ? tb_db_error(s->l->db, r, "looking for what is due", err) : 0;
}

static int sender_take(void *ctx, uint64_t realtime_us, bool parked, const struct tb_metering_event *after,
                       unsigned most, struct tb_metering_batch *ret, char err[static TB_METERING_ERR_MAX])
{
    struct billing_sender *s = ctx;
    int r = tb_metering_take(s->l, realtime_us, parked, after ? after->hour : -1,
                             after ? after->dimension : "", most, ret, err);

    for (unsigned i = 0; i < ret->n; i++) {
        snprintf(ret->event[i].resource, sizeof(ret->event[i].resource), "%s", s->resource);
        snprintf(ret->event[i].plan, sizeof(ret->event[i].plan), "%s", s->plan);
    }
    return r;
}

static int sender_settle(void *ctx, const struct tb_metering_batch *b, const struct tb_metering_verdict *v,
                         uint64_t realtime_us, char err[static TB_METERING_ERR_MAX])
{
    struct billing_sender *s = ctx;

    return tb_metering_settle(s->l, b, v, realtime_us, err);
}

struct tb_metering_ledger billing_sender_ledger(struct billing_sender *s)
{
    return (struct tb_metering_ledger){sender_due, sender_take, sender_settle, s};
}
