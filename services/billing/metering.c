/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/metering.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/hex.h"
#include "common/secret.h"

/* Everything a transaction of this file needs. */
struct work {
    struct tb_ledger *l;
    uint64_t realtime_us;
    char *err;
    unsigned moved;
    /* take */
    bool parked;
    int64_t after_hour;
    const char *after_dimension;
    unsigned most;
    struct tb_metering_batch *batch;
    /* settle */
    const struct tb_metering_batch *settling;
    const struct tb_metering_verdict *verdict;
    /* resolve */
    int64_t hour;
    const char *dimension;
    bool accepted;
};

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

/* -- time passes ---------------------------------------------------------------------------------------------------- */

static int to_open_hour(struct work *w, const char *dimension, int64_t quantity, int64_t since)
{
    int64_t open;
    int r = tb_ledger_open_hour(w->l, w->realtime_us, &open);

    return r < 0 ? r : tb_ledger_event_add(w->l, open, dimension, quantity, since);
}

/* Moves every event that `where` selects (?1 is hour) into the open hour. One at a time: each changes what the next one finds. */
static int move_all(struct work *w, const char *where, int64_t hour, unsigned *ret_moved)
{
    _cleanup_free_ char *sql = NULL;

    if (asprintf(&sql, "SELECT hour, dimension, quantity, since FROM event WHERE %s LIMIT 1", where) < 0)
        return -EIO;
    for (;;) {
        _cleanup_stmt_ sqlite3_stmt *s = NULL;
        char name[32];
        int64_t quantity, since;
        int r = tb_db_prepare(w->l->db, &s, sql, "i", hour);

        if (r < 0)
            return r;
        r = sqlite3_step(s);
        if (r != SQLITE_ROW)
            return r == SQLITE_DONE ? 0 : -EIO;
        snprintf(name, sizeof(name), "%s", sqlite3_column_text(s, 1));
        quantity = sqlite3_column_int64(s, 2);
        since = sqlite3_column_int64(s, 3);
        r = tb_db_run(w->l->db, "DELETE FROM event WHERE hour = ?1 AND dimension = ?2", "it",
                      sqlite3_column_int64(s, 0), name);
        tb_stmt_finalizep(&s);
        if (r != 1 || to_open_hour(w, name, quantity, since) < 0)
            return -EIO;
        (*ret_moved)++;
    }
}

/* A random (version 4) GUID for each hour that freezes. */
static void make_request_id(char out[static TB_REQUEST_ID_MAX])
{
    uint8_t b[16] = {0};
    char hex[33];

    (void)tb_random(b, sizeof(b));
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    tb_hex_encode(b, sizeof(b), hex);
    snprintf(out, TB_REQUEST_ID_MAX, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static int freeze(struct work *w)
{
    int64_t over = w->realtime_us < TB_LEDGER_GRACE_US ? 0 : hour_of(w->realtime_us - TB_LEDGER_GRACE_US);

    for (;;) {
        char id[TB_REQUEST_ID_MAX];
        int64_t hour;
        int r = tb_db_int(w->l->db, &hour, -1,
                          "SELECT min(hour) FROM event WHERE state = 'OPEN' AND hour < ?1", "i", over);

        if (r < 0 || hour < 0)
            return r;
        make_request_id(id);
        r = tb_db_run(w->l->db,
                      "UPDATE event SET state = 'FROZEN', request_id = ?2 WHERE hour = ?1 AND state = 'OPEN'",
                      "it", hour, id);
        if (r < 0)
            return r;
    }
}

static int advance(void *arg)
{
    struct work *w = arg;
    unsigned relabelled = 0;
    int64_t open;
    int r;

    /* The clock was ahead: what it froze too early is open again. The marketplace has none of it. */
    r = move_all(w, "state IN ('FROZEN', 'PARKED') AND doubt = 0 AND hour > ?1", hour_of(w->realtime_us),
                 &relabelled);
    if (r == 0)
        r = move_all(w, "state IN ('FROZEN', 'PARKED') AND doubt = 0 AND hour <= ?1",
                     last_stale_hour(w->realtime_us), &w->moved);
    if (r == 0)
        r = move_all(w, "state = 'OPEN' AND hour <= ?1", last_stale_hour(w->realtime_us), &w->moved);
    if (r == 0)
        r = tb_ledger_open_hour(w->l, w->realtime_us, &open);
    if (r == 0)
        r = move_all(w, "state = 'OPEN' AND hour > ?1", open, &relabelled);
    return r < 0 ? r : freeze(w);
}

int tb_metering_advance(struct tb_ledger *l, uint64_t realtime_us, unsigned *ret_moved,
                        char err[static TB_LEDGER_ERR_MAX])
{
    struct work w = {.l = l, .realtime_us = realtime_us, .err = err};
    int r = tb_db_transaction(l->db, "closing hours", advance, &w, err);

    *ret_moved = w.moved;
    return r;
}

/* -- sending -------------------------------------------------------------------------------------------------------- */

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

static int take_row(struct work *w, sqlite3_stmt *s)
{
    struct tb_metering_batch *b = w->batch;
    const char *name = (const char *)sqlite3_column_text(s, 1), *id = (const char *)sqlite3_column_text(s, 6);
    struct tb_metering_event *e = &b->event[b->n];

    *e = (struct tb_metering_event){.dimension = dimension_named(name),
                                    .quantity = sqlite3_column_int64(s, 2),
                                    .since = sqlite3_column_int64(s, 3),
                                    .parked = strcmp((const char *)sqlite3_column_text(s, 4), "PARKED") == 0,
                                    .doubt = sqlite3_column_int(s, 5)};
    if (!e->dimension) {
        snprintf(w->err, TB_LEDGER_ERR_MAX,
                 "dimension \"%.40s\" is not known to this version; upgrade TrustBridge", name);
        return -EBADMSG;
    }
    if (b->n++ == 0)
        snprintf(b->request_id, sizeof(b->request_id), "%s", id ? id : "");
    return 0;
}

static int take(void *arg)
{
    struct work *w = arg;
    struct tb_metering_batch *b = w->batch;
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(
        w->l->db, &s,
        "SELECT hour, dimension, quantity, since, state, doubt, request_id FROM event WHERE " DUE
        " ORDER BY hour, dimension",
        "iiit", (int64_t)w->parked, last_stale_hour(w->realtime_us), w->after_hour, w->after_dimension);

    if (r < 0)
        return r;
    while ((r = sqlite3_step(s)) == SQLITE_ROW && b->n < w->most) {
        if (b->n > 0 && sqlite3_column_int64(s, 0) != b->hour)
            break;
        b->hour = sqlite3_column_int64(s, 0);
        if (take_row(w, s) < 0)
            return -EBADMSG;
    }
    if (r != SQLITE_ROW && r != SQLITE_DONE)
        return -EIO;
    tb_stmt_finalizep(&s);
    for (unsigned i = 0; i < b->n; i++) {
        r = tb_db_run(w->l->db,
                      "UPDATE event SET state = 'SENT', doubt = 1, tries = tries + 1 WHERE hour = ?1 AND "
                      "dimension = ?2",
                      "it", b->hour, b->event[i].dimension->name);
        if (r < 0)
            return r;
    }
    return 0;
}

int tb_metering_take(struct tb_ledger *l, uint64_t realtime_us, bool parked, int64_t after_hour,
                     const char *after_dimension, unsigned most, struct tb_metering_batch *ret,
                     char err[static TB_LEDGER_ERR_MAX])
{
    struct work w = {.l = l,
                     .realtime_us = realtime_us,
                     .err = err,
                     .parked = parked,
                     .after_hour = after_hour,
                     .after_dimension = after_dimension,
                     .most = MIN(most, (unsigned)TB_USAGE_DIMENSIONS),
                     .batch = ret};

    *ret = (struct tb_metering_batch){0};
    return tb_db_transaction(l->db, "taking an hour to be sent", take, &w, err);
}

/* -- what became of it ---------------------------------------------------------------------------------------------- */

#define THIS_SENT " WHERE hour = ?1 AND dimension = ?2 AND state = 'SENT'"

static int settle_accepted(struct work *w, const struct tb_metering_event *e,
                           const struct tb_metering_verdict *v)
{
    int64_t hour = w->settling->hour, rest = e->quantity - v->accepted;
    int r = tb_db_run(w->l->db,
                      "UPDATE event SET state = 'ACCEPTED', doubt = 0, quantity = min(quantity, ?3), "
                      "accepted = ?3, reason = ?4" THIS_SENT,
                      "itit", hour, e->dimension->name, v->accepted, *v->reason ? v->reason : NULL);

    if (r <= 0)
        return r;
    if (!v->duplicate)
        r = tb_db_run(w->l->db, "DELETE FROM meta WHERE key = 'ended'", NULL);
    return r < 0 || rest <= 0 ? r : to_open_hour(w, e->dimension->name, rest, e->since);
}

static int settle_back(struct work *w, const struct tb_metering_event *e, const char *state,
                       const char *reason)
{
    return tb_db_run(w->l->db,
                     "UPDATE event SET state = ?3, doubt = ?4, reason = coalesce(?5, reason)" THIS_SENT,
                     "ittit", w->settling->hour, e->dimension->name, state, (int64_t)e->doubt, reason);
}

static int settle_expired(struct work *w, const struct tb_metering_event *e)
{
    int r;

    if (e->doubt)
        return settle_back(
            w, e, "PARKED",
            "too old to be sent again, and an earlier request with it had no answer: see whether the "
            "marketplace has it");
    r = tb_db_run(w->l->db, "DELETE FROM event" THIS_SENT, "it", w->settling->hour, e->dimension->name);
    return r <= 0 ? r : to_open_hour(w, e->dimension->name, e->quantity, e->since);
}

static int settle_one(struct work *w, const struct tb_metering_event *e, const struct tb_metering_verdict *v)
{
    int r;

    switch (v->outcome) {
    case TB_METERING_UNKNOWN:
        return 0;
    case TB_METERING_UNSENT:
        return settle_back(w, e, e->parked ? "PARKED" : e->doubt ? "SENT" : "FROZEN", NULL);
    case TB_METERING_ACCEPTED:
        return settle_accepted(w, e, v);
    case TB_METERING_EXPIRED:
        return settle_expired(w, e);
    case TB_METERING_ENDED:
        r = tb_db_run(w->l->db, "INSERT INTO meta VALUES ('ended', ?1) ON CONFLICT (key) DO NOTHING", "t",
                      v->reason);
        if (r < 0)
            return r;
        /* fall through */
    case TB_METERING_REFUSED:
        return settle_back(w, e, "PARKED", v->reason);
    }
    return 0;
}

static int settle(void *arg)
{
    struct work *w = arg;

    for (unsigned i = 0; i < w->settling->n; i++) {
        int r = settle_one(w, &w->settling->event[i], &w->verdict[i]);

        if (r < 0)
            return r;
    }
    return 0;
}

int tb_metering_settle(struct tb_ledger *l, const struct tb_metering_batch *b,
                       const struct tb_metering_verdict *v, uint64_t realtime_us,
                       char err[static TB_LEDGER_ERR_MAX])
{
    struct work w = {.l = l, .realtime_us = realtime_us, .err = err, .settling = b, .verdict = v};

    return tb_db_transaction(l->db, "entering an answer", settle, &w, err);
}

#define THIS_IN_DOUBT " WHERE hour = ?1 AND dimension = ?2 AND state = 'PARKED' AND doubt = 1"

static int resolve(void *arg)
{
    /* FROZEN and certain: if it is too old to be sent, the next advance brings it into the open hour. */
    static const char accept[] =
        "UPDATE event SET state = 'ACCEPTED', doubt = 0, accepted = quantity" THIS_IN_DOUBT;
    static const char take_back[] = "UPDATE event SET state = 'FROZEN', doubt = 0" THIS_IN_DOUBT;
    struct work *w = arg;
    int r = tb_db_run(w->l->db, w->accepted ? accept : take_back, "it", w->hour, w->dimension);

    if (r != 0)
        return r;
    snprintf(w->err, TB_LEDGER_ERR_MAX, "no parked event in doubt of this hour and dimension");
    return -ENOENT;
}

int tb_metering_resolve(struct tb_ledger *l, int64_t hour, const char *dimension, bool accepted,
                        char err[static TB_LEDGER_ERR_MAX])
{
    struct work w = {.l = l, .err = err, .hour = hour, .dimension = dimension, .accepted = accepted};

    return tb_db_transaction(l->db, "resolving an event", resolve, &w, err);
}

int tb_metering_ended(struct tb_ledger *l, char ret[static TB_METERING_REASON_MAX])
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    int r = tb_db_prepare(l->db, &s, "SELECT value FROM meta WHERE key = 'ended'", NULL);

    if (r < 0)
        return r;
    r = sqlite3_step(s);
    snprintf(ret, TB_METERING_REASON_MAX, "%s",
             r == SQLITE_ROW ? (const char *)sqlite3_column_text(s, 0) : "");
    return r == SQLITE_ROW || r == SQLITE_DONE ? 0 : -EIO;
}
