/* SPDX-License-Identifier: Apache-2.0 */
/* Reported usage becomes metering events. A source's all-time total says how much is to be billed, its hours
 * where it goes; what no hour explains goes into the open hour. */
#include <string.h>

#include "controlplane/store/billing_room.h"

#define BOOK_ROWS_MAX 64         /* hours at a time */
#define BOOK_SINCE_MAX (31 * 24) /* an hour that is further back is of a clock that was wrong */

/* A source while it is booked. */
struct sourcing {
    struct cp_store *s;
    const struct cp_billing *terms;
    const struct cp_source *from;
    uint64_t now_us, booked;
    struct cp_dimension dimensions[TB_USAGE_DIMENSIONS];
    size_t n_dimensions;
};

struct counted_row {
    int64_t hour;
    char counter[32];
    int64_t total, mark;
};

#define SOURCE_KEYS                                                                                          \
    " AND m.hw_id=u.hw_id AND m.ledger=u.ledger AND m.counter=u.counter WHERE u.contract_id=$1 AND"          \
    " u.hw_id=$2 AND u.ledger=$3 AND u.total-u.base>COALESCE(m.booked,0)"

/* What is not booked, of totals or of one counter's hours. */
static int source_read(struct sourcing *b, const char *sql, const char *counter,
                       struct counted_row rows[static BOOK_ROWS_MAX], size_t *ret_n)
{
    _cleanup_rows_ struct cp_rows *found = NULL;
    int r = counter ? cp_sql_query(b->s->c, &found, sql, "tttt", b->from->contract_id, b->from->hw_id,
                                   b->from->ledger, counter)
                    : cp_sql_query(b->s->c, &found, sql, "ttt", b->from->contract_id, b->from->hw_id,
                                   b->from->ledger);

    *ret_n = 0;
    while (r >= 0 && *ret_n < BOOK_ROWS_MAX && (r = cp_rows_next(found)) > 0) {
        struct counted_row *w = &rows[(*ret_n)++];

        w->hour = cp_rows_int(found, 0);
        CP_ROWS_TEXT(found, 1, w->counter);
        w->total = cp_rows_int(found, 2);
        w->mark = cp_rows_int(found, 3);
    }
    return MIN(r, 0);
}

static int source_mark(struct sourcing *b, const struct counted_row *w)
{
    return store_run(b->s,
                     "INSERT INTO billing_marks VALUES($1,$2,$3,$4,$5,$6)"
                     " ON CONFLICT(contract_id, hw_id, ledger, hour, counter) DO UPDATE SET booked=$6",
                     "tttiti", b->from->contract_id, b->from->hw_id, b->from->ledger, w->hour, w->counter,
                     w->total);
}

/* Into each dimension that the counter is in. */
static int source_add(struct sourcing *b, const char *counter, int64_t hour, int64_t quantity)
{
    int64_t now = tb_metering_hour(b->now_us), since = hour > now || hour < now - BOOK_SINCE_MAX ? now : hour;
    int r = 0;

    for (size_t i = 0; r == 0 && quantity > 0 && i < b->n_dimensions; i++) {
        const struct cp_dimension *d = &b->dimensions[i];
        const struct cp_account a = {.resource = b->terms->resource,
                                     .plan = b->terms->plan,
                                     .dimension = d->name,
                                     .unit = d->of->unit};

        for (int c = 0; r == 0 && c < _TB_USAGE_MAX; c++)
            if (d->of->counters & 1U << c && strcmp(tb_usage_name((enum tb_usage_counter)c), counter) == 0)
                r = cp_billing_add(b->s, &a, hour, quantity, since, b->now_us);
    }
    b->booked += (uint64_t)quantity;
    return r;
}

/* Deals what a counter has to its hours. An hour is done even when there is nothing left for it: it must not
 * take what is used later. */
static int source_book_hours(struct sourcing *b, const char *counter, int64_t *left)
{
    static const char hours[] =
        "SELECT u.hour, u.counter, u.total-u.base, COALESCE(m.booked,0) FROM usage_hours u"
        " LEFT JOIN billing_marks m ON m.contract_id=u.contract_id AND m.hour=u.hour" SOURCE_KEYS
        " AND u.counter=$4 ORDER BY u.hour DESC LIMIT 64";
    struct counted_row rows[BOOK_ROWS_MAX];
    size_t n;
    int r;

    do {
        r = source_read(b, hours, counter, rows, &n);
        for (size_t i = 0; r == 0 && i < n; i++) {
            int64_t more = MIN(rows[i].total - rows[i].mark, *left);

            r = source_add(b, counter, rows[i].hour, more);
            *left -= more;
            if (r == 0)
                r = source_mark(b, &rows[i]);
        }
    } while (r == 0 && n == BOOK_ROWS_MAX);
    return r;
}

int cp_billing_book(struct cp_store *s, const struct cp_billing *terms, const struct cp_source *from,
                    uint64_t now_us, uint64_t *ret_booked)
{
    static const char totals[] =
        "SELECT -1, u.counter, u.total-u.base, COALESCE(m.booked,0) FROM usage_totals u"
        " LEFT JOIN billing_marks m ON m.contract_id=u.contract_id AND m.hour=-1" SOURCE_KEYS
        " ORDER BY u.counter LIMIT 64";
    struct sourcing b = {.s = s, .terms = terms, .from = from, .now_us = now_us};
    struct counted_row rows[BOOK_ROWS_MAX];
    size_t n;
    int r = cp_dimensions_parse(terms->dimensions, b.dimensions, &b.n_dimensions);

    *ret_booked = 0;
    if (r == 0)
        r = source_read(&b, totals, NULL, rows, &n);
    for (size_t i = 0; r == 0 && i < n; i++) {
        int64_t left = rows[i].total - rows[i].mark;

        r = source_book_hours(&b, rows[i].counter, &left);
        if (r == 0)
            r = source_add(&b, rows[i].counter, tb_metering_hour(now_us), left);
        if (r == 0)
            r = source_mark(&b, &rows[i]);
    }
    *ret_booked = b.booked;
    return r;
}

/* -- terms change ------------------------------------------------------------------------------ */
/* What was reported before the control plane billed the contract is somebody else's: marked as booked. */
static int billing_begin(struct cp_store *s, const char *contract_id)
{
    int r = store_run(s,
                      "INSERT INTO billing_marks SELECT contract_id, hw_id, ledger, -1, counter, total-base"
                      " FROM usage_totals WHERE contract_id=$1",
                      "t", contract_id);
    return r < 0 ? r
                 : store_run(s,
                             "INSERT INTO billing_marks SELECT contract_id, hw_id, ledger, hour, counter,"
                             " total-base FROM usage_hours WHERE contract_id=$1",
                             "t", contract_id);
}

/* Sources of one contract, one after the other. */
static int billing_next_ledger(struct cp_store *s, struct cp_source *from)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT hw_id, ledger FROM usage_ledgers WHERE contract_id=$1"
                         " AND (hw_id>$2 OR (hw_id=$2 AND ledger>$3)) ORDER BY hw_id, ledger LIMIT 1",
                         "ttt", from->contract_id, from->hw_id, from->ledger);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    CP_ROWS_TEXT(rows, 0, from->hw_id);
    CP_ROWS_TEXT(rows, 1, from->ledger);
    return 0;
}

static int billing_book_contract(struct cp_store *s, const struct cp_billing *terms, uint64_t now_us)
{
    struct cp_source from = {0};
    uint64_t booked;
    int r = 0;

    if (!*terms->resource)
        return 0;
    snprintf(from.contract_id, sizeof(from.contract_id), "%s", terms->contract_id);
    while (r == 0 && (r = billing_next_ledger(s, &from)) == 0)
        r = cp_billing_book(s, terms, &from, now_us, &booked);
    return r == -ENOENT ? 0 : r;
}

/* The marketplace takes ids that differ in case alone for one resource, and one event of it for each hour:
 * the second of two would be a duplicate, its usage lost. So a resource is spelt as it was the first time. */
static int billing_spell(struct cp_store *s, const char *resource, char ret[static TB_METERING_RESOURCE_MAX])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT resource FROM billing_events WHERE lower(resource)=lower($1)"
                         " UNION SELECT resource FROM billing_terms WHERE lower(resource)=lower($1)"
                         " ORDER BY resource LIMIT 1",
                         "t", resource);

    if (r == 0)
        r = cp_rows_next(rows);
    snprintf(ret, TB_METERING_RESOURCE_MAX, "%s", resource);
    if (r > 0)
        cp_rows_text(rows, 0, ret, TB_METERING_RESOURCE_MAX);
    return MIN(r, 0);
}

int cp_store_put_billing(struct cp_store *s, const struct cp_billing *b, uint64_t now_us)
{
    char resource[TB_METERING_RESOURCE_MAX];
    struct cp_billing before;
    int r = cp_store_get_billing(s, b->contract_id, &before);

    if (r == -ENOENT)
        r = billing_begin(s, b->contract_id);
    else if (r == 0)
        r = billing_book_contract(s, &before, now_us);
    if (r >= 0)
        r = billing_spell(s, b->resource, resource);
    return r < 0 ? r
                 : store_run(s,
                             "INSERT INTO billing_terms VALUES($1,$2,$3,$4,$5) ON CONFLICT(contract_id)"
                             " DO UPDATE SET resource=$2, plan=$3, dimensions=$4, updated_us=$5",
                             "ttttu", b->contract_id, resource, b->plan, b->dimensions, now_us);
}

/* -- the submitter's side ---------------------------------------------------------------------- */
struct booking_of {
    uint64_t term, now_us;
    const struct cp_source *from;
    uint64_t booked;
};

static int source_book(struct cp_store *s, void *ctx)
{
    struct booking_of *b = ctx;
    struct cp_billing terms = {0};
    int r = cp_billing_fence(s, b->term, b->now_us);

    b->booked = 0;
    if (r == 0)
        r = cp_store_get_billing(s, b->from->contract_id, &terms);
    if (r < 0 || !*terms.resource)
        return r == -ENOENT ? 0 : r;
    return cp_billing_book(s, &terms, b->from, b->now_us, &b->booked);
}

int cp_store_book_source(struct cp_store *s, uint64_t term, const struct cp_source *from, uint64_t now_us,
                         uint64_t *ret_booked)
{
    struct booking_of b = {.term = term, .now_us = now_us, .from = from};
    int r = cp_store_transact(s, source_book, &b);

    *ret_booked = b.booked;
    return r;
}

int cp_store_next_source(struct cp_store *s, const struct cp_source *after, struct cp_source *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(
        s->c, &rows,
        "SELECT u.contract_id, u.hw_id, u.ledger FROM usage_totals u"
        " JOIN billing_terms t ON t.contract_id=u.contract_id AND t.resource<>''"
        " LEFT JOIN billing_marks m ON m.contract_id=u.contract_id AND m.hw_id=u.hw_id AND"
        " m.ledger=u.ledger AND m.hour=-1 AND m.counter=u.counter"
        " WHERE u.total-u.base>COALESCE(m.booked,0) AND (u.contract_id, u.hw_id, u.ledger)>($1, $2, $3)"
        " ORDER BY u.contract_id, u.hw_id, u.ledger LIMIT 1",
        "ttt", after->contract_id, after->hw_id, after->ledger);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    CP_ROWS_TEXT(rows, 0, ret->contract_id);
    CP_ROWS_TEXT(rows, 1, ret->hw_id);
    CP_ROWS_TEXT(rows, 2, ret->ledger);
    return 0;
}
