/* SPDX-License-Identifier: Apache-2.0 */
/* The life of metering events in the control plane's database: metering/event.h, which says what each state
 * means, and what a verdict does. */
#include <string.h>

#include "controlplane/store/billing_room.h"

#define EVENT_KEY " WHERE resource=$1 AND dimension=$2 AND hour=$3"
#define EVENT_COLUMNS                                                                                        \
    "SELECT resource, plan, dimension, hour, quantity, unit, since, state, doubt, tries, accepted, reason"   \
    " FROM billing_events"

static void event_read(struct cp_rows *rows, struct cp_event_row *w)
{
    *w = (struct cp_event_row){.e = {.hour = cp_rows_int(rows, 3),
                                     .quantity = cp_rows_int(rows, 4),
                                     .unit = (uint64_t)cp_rows_int(rows, 5),
                                     .since = cp_rows_int(rows, 6),
                                     .doubt = cp_rows_int(rows, 8)},
                               .tries = (uint64_t)cp_rows_int(rows, 9),
                               .accepted = cp_rows_int(rows, 10)};
    CP_ROWS_TEXT(rows, 0, w->e.resource);
    CP_ROWS_TEXT(rows, 1, w->e.plan);
    CP_ROWS_TEXT(rows, 2, w->e.dimension);
    CP_ROWS_TEXT(rows, 7, w->state);
    CP_ROWS_TEXT(rows, 11, w->reason);
    w->e.parked = strcmp(w->state, "PARKED") == 0;
}

/* -- usage in ---------------------------------------------------------------------------------- */
/* Whether the event of this hour takes usage of the account: there is none, or it is OPEN and of the same
 * plan. */
static int event_takes(struct cp_store *s, const struct cp_account *a, int64_t hour, bool *ret)
{
    int64_t closed = 0;
    int r = cp_sql_int(s->c, &closed, 0,
                       "SELECT count(*) FROM billing_events" EVENT_KEY
                       " AND (state<>'OPEN' OR plan<>$4 OR unit<>$5)",
                       "ttitu", a->resource, a->dimension, hour, a->plan, a->unit);

    *ret = !closed;
    return r;
}

int cp_billing_open_hour(struct cp_store *s, const struct cp_account *a, uint64_t now_us, int64_t *ret)
{
    bool takes = false;
    int r = 0;

    for (*ret = tb_metering_hour(now_us); r == 0; (*ret)++) {
        r = event_takes(s, a, *ret, &takes);
        if (takes)
            break;
    }
    return r;
}

static int event_add(struct cp_store *s, const struct cp_account *a, int64_t hour, int64_t quantity,
                     int64_t since)
{
    return store_run(
        s,
        "INSERT INTO billing_events VALUES($1,$2,$3,$4,$5,$6,'OPEN',0,$7,0,-1,'')"
        " ON CONFLICT(resource, dimension, hour) DO UPDATE SET quantity=billing_events.quantity+$5,"
        " since=CASE WHEN $7<billing_events.since THEN $7 ELSE billing_events.since END",
        "ttitiui", a->resource, a->dimension, hour, a->plan, quantity, a->unit, since);
}

int cp_billing_add(struct cp_store *s, const struct cp_account *a, int64_t hour, int64_t quantity,
                   int64_t since, uint64_t now_us)
{
    bool takes = false;
    int r = 0;

    if (hour > tb_metering_stale_hour(now_us) && hour <= tb_metering_hour(now_us))
        r = event_takes(s, a, hour, &takes);
    if (r == 0 && !takes)
        r = cp_billing_open_hour(s, a, now_us, &hour);
    return r < 0 ? r : event_add(s, a, hour, quantity, since);
}

/* -- time passes ------------------------------------------------------------------------------- */
static int event_move(struct cp_store *s, const struct tb_metering_event *e, uint64_t now_us)
{
    const struct cp_account a = {e->resource, e->plan, e->dimension, e->unit};
    int64_t hour = 0;
    int r = store_run(s, "DELETE FROM billing_events" EVENT_KEY, "tti", e->resource, e->dimension, e->hour);

    if (r == 0)
        r = cp_billing_open_hour(s, &a, now_us, &hour);
    return r < 0 ? r : event_add(s, &a, hour, e->quantity, e->since);
}

/* 1: the first event of the query. */
static int event_first(struct cp_store *s, const char *sql, int64_t hour,
                       const struct tb_metering_event *after, struct tb_metering_event *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_event_row w;
    int r = after
                ? cp_sql_query(s->c, &rows, sql, "iitt", hour, after->hour, after->resource, after->dimension)
                : cp_sql_query(s->c, &rows, sql, "i", hour);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r > 0) {
        event_read(rows, &w);
        *ret = w.e;
    }
    return r;
}

/* Moves all that the query finds, one at a time: each changes what the next one finds. */
static int event_move_all(struct cp_store *s, const char *sql, int64_t hour, uint64_t now_us, unsigned *moved)
{
    struct tb_metering_event e;
    int r;

    while ((r = event_first(s, sql, hour, NULL, &e)) > 0) {
        r = event_move(s, &e, now_us);
        if (r < 0)
            return r;
        (*moved)++;
    }
    return r;
}

/* What a clock that was ahead had labelled with an hour that is yet to come, where an earlier one is free. */
static int event_bring_back(struct cp_store *s, uint64_t now_us)
{
    static const char open[] = EVENT_COLUMNS " WHERE state='OPEN' AND hour>$1 AND"
                                             " (hour, resource, dimension)>($2, $3, $4)"
                                             " ORDER BY hour, resource, dimension LIMIT 1";
    struct tb_metering_event e = {.hour = -1};
    int r;

    while ((r = event_first(s, open, tb_metering_hour(now_us), &e, &e)) > 0) {
        const struct cp_account a = {e.resource, e.plan, e.dimension, e.unit};
        int64_t hour = 0;

        r = cp_billing_open_hour(s, &a, now_us, &hour);
        if (r == 0 && hour < e.hour)
            r = event_move(s, &e, now_us);
        if (r < 0)
            return r;
    }
    return r;
}

struct advance {
    uint64_t term, now_us, grace_us;
    unsigned moved;
};

static int events_advance(struct cp_store *s, void *ctx)
{
    static const char ahead[] =
        EVENT_COLUMNS " WHERE state IN ('FROZEN', 'PARKED') AND doubt=0 AND hour>$1 ORDER BY hour LIMIT 1";
    static const char stale[] = EVENT_COLUMNS " WHERE (state='OPEN' OR (state IN ('FROZEN', 'PARKED') AND"
                                              " doubt=0)) AND hour<=$1 ORDER BY hour LIMIT 1";
    struct advance *a = ctx;
    unsigned relabelled = 0;
    int r = cp_billing_fence(s, a->term, a->now_us);

    a->moved = 0;
    /* What was frozen too early is open again: the marketplace has none of it. */
    if (r == 0)
        r = event_move_all(s, ahead, tb_metering_hour(a->now_us), a->now_us, &relabelled);
    if (r == 0)
        r = event_move_all(s, stale, tb_metering_stale_hour(a->now_us), a->now_us, &a->moved);
    if (r == 0)
        r = event_bring_back(s, a->now_us);
    return r < 0 ? r
                 : store_run(s, "UPDATE billing_events SET state='FROZEN' WHERE state='OPEN' AND hour<$1",
                             "i", tb_metering_current_hour(a->now_us, a->grace_us));
}

int cp_store_advance_events(struct cp_store *s, uint64_t term, uint64_t now_us, uint64_t grace_us,
                            unsigned *ret_moved)
{
    struct advance a = {.term = term, .now_us = now_us, .grace_us = grace_us};
    int r = cp_store_transact(s, events_advance, &a);

    *ret_moved = a.moved;
    return r;
}

/* -- sending ----------------------------------------------------------------------------------- */
#define EVENTS_DUE                                                                                           \
    " WHERE (state IN ('FROZEN', 'SENT') OR (state='PARKED' AND $1=1 AND hour>$2)) AND"                      \
    " (hour, resource, dimension)>($3, $4, $5)"

int cp_store_events_due(struct cp_store *s, uint64_t now_us, bool parked, bool *ret)
{
    int64_t any = 0;
    int r = cp_sql_int(s->c, &any, 0, "SELECT count(*) FROM billing_events" EVENTS_DUE, "iiitt",
                       (int64_t)parked, tb_metering_stale_hour(now_us), INT64_C(-1), "", "");

    *ret = r == 0 && any;
    return r;
}

struct taking {
    uint64_t term, now_us;
    bool parked;
    const struct tb_metering_event *after;
    unsigned most;
    struct tb_metering_batch *ret;
};

static int events_take_rows(struct cp_store *s, struct taking *t)
{
    static const char due[] = EVENT_COLUMNS EVENTS_DUE " ORDER BY hour, resource, dimension LIMIT $6";
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_event_row w;
    int r = cp_sql_query(s->c, &rows, due, "iiitti", (int64_t)t->parked, tb_metering_stale_hour(t->now_us),
                         t->after ? t->after->hour : -1, t->after ? t->after->resource : "",
                         t->after ? t->after->dimension : "",
                         (int64_t)MIN(t->most, (unsigned)TB_METERING_BATCH_MAX));

    while (r >= 0 && (r = cp_rows_next(rows)) > 0) {
        event_read(rows, &w);
        t->ret->event[t->ret->n++] = w.e;
    }
    return r;
}

static int events_take(struct cp_store *s, void *ctx)
{
    struct taking *t = ctx;
    int r = cp_billing_fence(s, t->term, t->now_us);

    *t->ret = (struct tb_metering_batch){0};
    if (r == 0)
        r = events_take_rows(s, t);
    for (unsigned i = 0; r == 0 && i < t->ret->n; i++)
        r = store_run(s, "UPDATE billing_events SET state='SENT', doubt=1, tries=tries+1" EVENT_KEY, "tti",
                      t->ret->event[i].resource, t->ret->event[i].dimension, t->ret->event[i].hour);
    return r;
}

int cp_store_take_events(struct cp_store *s, uint64_t term, uint64_t now_us, bool parked,
                         const struct tb_metering_event *after, unsigned most, struct tb_metering_batch *ret)
{
    struct taking t = {term, now_us, parked, after, most, ret};
    int r = cp_store_transact(s, events_take, &t);

    tb_metering_request_id(ret->request_id);
    return r;
}

/* -- what became of it ------------------------------------------------------------------------- */
struct settling {
    uint64_t term, now_us;
    const struct tb_metering_batch *b;
    const struct tb_metering_verdict *v;
};

static int event_settle_ended(struct cp_store *s, const struct tb_metering_event *e,
                              const struct tb_metering_change *c, uint64_t now_us)
{
    if (c->not_ended)
        return store_run(s, "DELETE FROM billing_ended WHERE resource=$1", "t", e->resource);
    return c->ended
               ? store_run(s, "INSERT INTO billing_ended VALUES($1,$2,$3) ON CONFLICT(resource) DO NOTHING",
                           "ttu", e->resource, c->reason, now_us)
               : 0;
}

static int event_settle(struct cp_store *s, const struct tb_metering_event *e,
                        const struct tb_metering_verdict *v, uint64_t now_us)
{
    const struct cp_account a = {e->resource, e->plan, e->dimension, e->unit};
    struct tb_metering_change c;
    int64_t hour = 0;
    int n;

    tb_metering_decide(e, v, &c);
    if (!c.state)
        return 0;
    if (*c.state == '\0')
        n = cp_sql_run(s->c, "DELETE FROM billing_events" EVENT_KEY " AND state='SENT'", "tti", e->resource,
                       e->dimension, e->hour);
    else
        n = cp_sql_run(s->c,
                       "UPDATE billing_events SET state=$4, doubt=$5, quantity=$6,"
                       " accepted=CASE WHEN $7>=0 THEN $7 ELSE accepted END,"
                       " reason=COALESCE($8, reason)" EVENT_KEY " AND state='SENT'",
                       "ttitiiit", e->resource, e->dimension, e->hour, c.state, (int64_t)c.doubt, c.quantity,
                       c.accepted, c.reason);
    if (n <= 0) /* settled before: a COMMIT that had no answer */
        return n;
    n = event_settle_ended(s, e, &c, now_us);
    if (n == 0 && c.rest > 0)
        n = cp_billing_open_hour(s, &a, now_us, &hour);
    return n < 0 || c.rest <= 0 ? n : event_add(s, &a, hour, c.rest, e->since);
}

static int events_settle(struct cp_store *s, void *ctx)
{
    struct settling *t = ctx;
    int r = cp_billing_fence(s, t->term, t->now_us);

    for (unsigned i = 0; r == 0 && i < t->b->n; i++)
        r = event_settle(s, &t->b->event[i], &t->v[i], t->now_us);
    return r;
}

int cp_store_settle_events(struct cp_store *s, uint64_t term, const struct tb_metering_batch *b,
                           const struct tb_metering_verdict *v, uint64_t now_us)
{
    struct settling t = {term, now_us, b, v};

    return cp_store_transact(s, events_settle, &t);
}

/* -- for people -------------------------------------------------------------------------------- */
int cp_store_resolve_event(struct cp_store *s, const char *resource, const char *dimension, int64_t hour,
                           bool accepted)
{
    /* FROZEN and certain: if it is too old to be sent, the next advance brings it into the open hour. */
    int n = accepted ? cp_sql_run(s->c,
                                  "UPDATE billing_events SET state='ACCEPTED', doubt=0,"
                                  " accepted=quantity" EVENT_KEY " AND state='PARKED' AND doubt=1",
                                  "tti", resource, dimension, hour)
                     : cp_sql_run(s->c,
                                  "UPDATE billing_events SET state='FROZEN', doubt=0" EVENT_KEY
                                  " AND state='PARKED' AND doubt=1",
                                  "tti", resource, dimension, hour);

    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}

int cp_store_each_event(struct cp_store *s, const struct cp_event_page *p,
                        int (*fn)(const struct cp_event_row *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_event_row w;
    int r = cp_sql_query(
        s->c, &rows,
        EVENT_COLUMNS " WHERE ($1=0 OR state<>'ACCEPTED') AND (hour>$2 OR (hour=$2 AND (resource>$3"
                      " OR (resource=$3 AND dimension>$4)))) ORDER BY hour, resource, dimension LIMIT $5",
        "iittu", (int64_t)p->unaccepted, p->after_hour, p->after_resource, p->after_dimension, p->limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        event_read(rows, &w);
        r = fn(&w, ctx);
        if (r != 0)
            return r;
    }
    return r;
}
