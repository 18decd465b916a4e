/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/store/purchases.h"

#include <string.h>

#include "controlplane/store/store_room.h"

const char *const cp_application_state_names[_CP_APPLICATION_STATE_MAX] = {"new", "granted", "ended", "held"};

/* -- offers ------------------------------------------------------------------------------------ */
int cp_store_put_offer(struct cp_store *s, const struct cp_offer *o, uint64_t now_us)
{
    int64_t others = 0;
    int r = cp_sql_int(s->c, &others, 0, "SELECT count(*) FROM offers WHERE source=$1 AND offer_id<>$2", "tt",
                       o->source, o->offer_id);

    if (r == 0 && others > 0)
        r = -EEXIST;
    if (r == 0)
        r = store_run(
            s,
            "INSERT INTO offers VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10) ON CONFLICT(offer_id) DO UPDATE"
            " SET source=$2, asset_id=$3, version=$4, mode=$5, lease_seconds=$6, max_hw=$7,"
            " slot_ttl_s=$8, dimensions=$10",
            "tttutuuuut", o->offer_id, o->source, o->asset_id, o->version, cp_mode_names[o->mode],
            o->lease_seconds, o->max_hw, o->slot_ttl_s, now_us, o->dimensions);
    return r < 0
               ? r
               : store_run(s, "UPDATE applications SET check_us=$1, tries=0 WHERE source=$2 AND state='held'",
                           "ut", now_us, o->source);
}

#define OFFER_COLUMNS                                                                                        \
    "offer_id, source, asset_id, version, mode, lease_seconds, max_hw, slot_ttl_s, created_us,"              \
    " dimensions FROM offers"

static void offer_read(struct cp_rows *rows, struct cp_offer *o)
{
    char mode[32];

    *o = (struct cp_offer){.version = (uint64_t)cp_rows_int(rows, 3),
                           .mode = CP_MODE_ENROLLED,
                           .lease_seconds = (uint64_t)cp_rows_int(rows, 5),
                           .max_hw = (uint64_t)cp_rows_int(rows, 6),
                           .slot_ttl_s = (uint64_t)cp_rows_int(rows, 7),
                           .created_us = (uint64_t)cp_rows_int(rows, 8)};
    CP_ROWS_TEXT(rows, 0, o->offer_id);
    CP_ROWS_TEXT(rows, 1, o->source);
    CP_ROWS_TEXT(rows, 2, o->asset_id);
    CP_ROWS_TEXT(rows, 9, o->dimensions);
    CP_ROWS_TEXT(rows, 4, mode);
    for (int m = 0; m < _CP_MODE_MAX; m++)
        if (strcmp(mode, cp_mode_names[m]) == 0)
            o->mode = (enum cp_mode)m;
}

static int offer_first(struct cp_rows *rows, struct cp_offer *ret)
{
    int r = cp_rows_next(rows);

    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    offer_read(rows, ret);
    return 0;
}

int cp_store_find_offer(struct cp_store *s, const char *source, struct cp_offer *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " OFFER_COLUMNS " WHERE source=$1", "t", source);

    return r < 0 ? r : offer_first(rows, ret);
}

int cp_store_get_offer(struct cp_store *s, const char *offer_id, struct cp_offer *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " OFFER_COLUMNS " WHERE offer_id=$1", "t", offer_id);

    return r < 0 ? r : offer_first(rows, ret);
}

int cp_store_remove_offer(struct cp_store *s, const char *offer_id)
{
    int n = cp_sql_run(s->c, "DELETE FROM offers WHERE offer_id=$1", "t", offer_id);

    return n < 0 ? n : n == 0 ? -ENOENT : 0;
}

int cp_store_each_offer(struct cp_store *s, const char *after, uint64_t limit,
                        int (*fn)(const struct cp_offer *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_offer o;
    int r = cp_sql_query(s->c, &rows, "SELECT " OFFER_COLUMNS " WHERE offer_id>$1 ORDER BY offer_id LIMIT $2",
                         "tu", after, limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        offer_read(rows, &o);
        r = fn(&o, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

/* -- applications ------------------------------------------------------------------------------ */
#define APPLICATION_COLUMNS                                                                                  \
    "application_id, contract_id, source, resource_usage_id, managed_group, state, succeeded, event,"        \
    " event_us, check_us, tries, missing_us, problem, created_us, updated_us FROM applications"

static void application_read(struct cp_rows *rows, struct cp_application *a)
{
    char state[16];

    *a = (struct cp_application){.succeeded = cp_rows_int(rows, 6),
                                 .event_us = (uint64_t)cp_rows_int(rows, 8),
                                 .check_us = (uint64_t)cp_rows_int(rows, 9),
                                 .tries = (uint64_t)cp_rows_int(rows, 10),
                                 .missing_us = (uint64_t)cp_rows_int(rows, 11),
                                 .created_us = (uint64_t)cp_rows_int(rows, 13),
                                 .updated_us = (uint64_t)cp_rows_int(rows, 14)};
    CP_ROWS_TEXT(rows, 0, a->application_id);
    CP_ROWS_TEXT(rows, 1, a->contract_id);
    CP_ROWS_TEXT(rows, 2, a->source);
    CP_ROWS_TEXT(rows, 3, a->resource_usage_id);
    CP_ROWS_TEXT(rows, 4, a->managed_group);
    CP_ROWS_TEXT(rows, 5, state);
    CP_ROWS_TEXT(rows, 7, a->event);
    CP_ROWS_TEXT(rows, 12, a->problem);
    for (int i = 0; i < _CP_APPLICATION_STATE_MAX; i++)
        if (strcmp(state, cp_application_state_names[i]) == 0)
            a->state = (enum cp_application_state)i;
}

static int application_first(struct cp_rows *rows, struct cp_application *ret)
{
    int r = cp_rows_next(rows);

    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    application_read(rows, ret);
    return 0;
}

int cp_store_get_application(struct cp_store *s, const char *application_id, struct cp_application *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT " APPLICATION_COLUMNS " WHERE application_id=$1", "t",
                         application_id);

    return r < 0 ? r : application_first(rows, ret);
}

int cp_store_get_application_of(struct cp_store *s, const char *contract_id, struct cp_application *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " APPLICATION_COLUMNS " WHERE contract_id=$1"
                         " ORDER BY CASE WHEN state='granted' THEN 0 ELSE 1 END, updated_us DESC LIMIT 1",
                         "t", contract_id);

    return r < 0 ? r : application_first(rows, ret);
}

int cp_store_claim_application(struct cp_store *s, uint64_t now_us, uint64_t again_us,
                               struct cp_application *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " APPLICATION_COLUMNS
                         " WHERE check_us>0 AND check_us<=$1 ORDER BY check_us LIMIT 1",
                         "u", now_us);

    if (r == 0)
        r = application_first(rows, ret);
    rows = cp_rows_free(rows);
    if (r < 0)
        return r;
    ret->check_us = again_us;
    return store_run(s, "UPDATE applications SET check_us=$2 WHERE application_id=$1", "tu",
                     ret->application_id, again_us);
}

int cp_store_put_application(struct cp_store *s, const struct cp_application *a)
{
    return store_run(s,
                     "INSERT INTO applications VALUES($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15)"
                     " ON CONFLICT(application_id) DO UPDATE SET contract_id=$2, source=$3,"
                     " resource_usage_id=$4, managed_group=$5, state=$6, succeeded=$7, event=$8, event_us=$9,"
                     " check_us=$10, tries=$11, missing_us=$12, problem=$13, updated_us=$15",
                     "ttttttutuuuutuu", a->application_id, a->contract_id, a->source, a->resource_usage_id,
                     a->managed_group, cp_application_state_names[a->state], (uint64_t)a->succeeded, a->event,
                     a->event_us, a->check_us, a->tries, a->missing_us, a->problem, a->created_us,
                     a->updated_us);
}

int cp_store_each_application(struct cp_store *s, const struct cp_application_page *p,
                              int (*fn)(const struct cp_application *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_application a;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " APPLICATION_COLUMNS " WHERE ($1='' OR contract_id=$1)"
                         " AND ($2='' OR state=$2)"
                         " AND (created_us>$3 OR (created_us=$3 AND application_id>$4))"
                         " ORDER BY created_us, application_id LIMIT $5",
                         "ttutu", p->contract_id, p->state, p->after_us, p->after, p->limit);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        application_read(rows, &a);
        r = fn(&a, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

/* What it says of the application counts when nothing newer said so. */
static int notice_apply(struct cp_store *s, const struct cp_notice *n, uint64_t now_us)
{
    struct cp_application a = {.created_us = now_us};
    int r = cp_store_get_application(s, n->application_id, &a);

    if (r < 0 && r != -ENOENT)
        return r;
    strcpy(a.application_id, n->application_id);
    if (n->event_us >= a.event_us) {
        strcpy(a.event, n->event);
        a.event_us = n->event_us;
        if (*n->source)
            strcpy(a.source, n->source);
        if (*n->resource_usage_id)
            strcpy(a.resource_usage_id, n->resource_usage_id);
    }
    a.check_us = a.updated_us = now_us;
    a.tries = 0;
    return cp_store_put_application(s, &a);
}

int cp_store_take_notice(struct cp_store *s, const struct cp_notice *n, uint64_t now_us, bool *ret_new)
{
    int64_t seen = 0;
    int r = cp_sql_int(s->c, &seen, 0,
                       "SELECT times FROM notices WHERE application_id=$1 AND event=$2 AND event_us=$3",
                       "ttu", n->application_id, n->event, n->event_us);

    *ret_new = seen == 0;
    if (r == 0)
        r = store_run(s,
                      "INSERT INTO notices VALUES($1,$2,$3,$4,$5,1) ON CONFLICT(application_id, event,"
                      " event_us) DO UPDATE SET times=notices.times+1",
                      "ttutu", n->application_id, n->event, n->event_us, n->detail, now_us);
    return r < 0 ? r : notice_apply(s, n, now_us);
}

/* -- purchases --------------------------------------------------------------------------------- */
#define PURCHASE_COLUMNS                                                                                     \
    "application_id, number, contract_id, source, resource_usage_id, from_us, to_us FROM purchases"

static void purchase_read(struct cp_rows *rows, struct cp_purchase *p)
{
    *p = (struct cp_purchase){.number = (uint64_t)cp_rows_int(rows, 1),
                              .from_us = (uint64_t)cp_rows_int(rows, 5),
                              .to_us = (uint64_t)cp_rows_int(rows, 6)};
    CP_ROWS_TEXT(rows, 0, p->application_id);
    CP_ROWS_TEXT(rows, 2, p->contract_id);
    CP_ROWS_TEXT(rows, 3, p->source);
    CP_ROWS_TEXT(rows, 4, p->resource_usage_id);
}

int cp_store_end_purchase(struct cp_store *s, const char *application_id, uint64_t now_us)
{
    return store_run(s, "UPDATE purchases SET to_us=$2 WHERE application_id=$1 AND to_us=0", "tu",
                     application_id, now_us);
}

int cp_store_last_purchase(struct cp_store *s, const char *application_id, struct cp_purchase *ret)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows,
                         "SELECT " PURCHASE_COLUMNS " WHERE application_id=$1 ORDER BY number DESC LIMIT 1",
                         "t", application_id);

    if (r == 0)
        r = cp_rows_next(rows);
    if (r <= 0)
        return r == 0 ? -ENOENT : r;
    purchase_read(rows, ret);
    return 0;
}

/* By the plan of the source, where its offer says what is billed. */
static int purchase_bill(struct cp_store *s, const struct cp_application *a, uint64_t now_us)
{
    const char *plan = strrchr(a->source, '/');
    struct cp_billing b = {0};
    struct cp_offer o;
    int r = cp_store_find_offer(s, a->source, &o);

    if (r < 0 || !*o.dimensions || !plan)
        return r == -ENOENT ? 0 : r;
    snprintf(b.contract_id, sizeof(b.contract_id), "%s", a->contract_id);
    snprintf(b.resource, sizeof(b.resource), "%s", a->resource_usage_id);
    snprintf(b.plan, sizeof(b.plan), "%.*s", TB_METERING_NAME_MAX - 1, plan + 1);
    snprintf(b.dimensions, sizeof(b.dimensions), "%s", o.dimensions);
    return cp_store_put_billing(s, &b, now_us);
}

int cp_store_begin_purchase(struct cp_store *s, const struct cp_application *a, uint64_t now_us)
{
    struct cp_purchase p = {0};
    int r = cp_store_last_purchase(s, a->application_id, &p);

    if (r < 0 && r != -ENOENT)
        return r;
    if (p.number && !p.to_us && strcmp(p.contract_id, a->contract_id) == 0 &&
        strcmp(p.source, a->source) == 0 && strcmp(p.resource_usage_id, a->resource_usage_id) == 0)
        return 0;
    r = cp_store_end_purchase(s, a->application_id, now_us);
    if (r == 0)
        r = purchase_bill(s, a, now_us);
    return r < 0 ? r
                 : store_run(s, "INSERT INTO purchases VALUES($1,$2,$3,$4,$5,$6,0)", "tutttu",
                             a->application_id, p.number + 1, a->contract_id, a->source, a->resource_usage_id,
                             now_us);
}

int cp_store_each_purchase(struct cp_store *s, const char *application_id,
                           int (*fn)(const struct cp_purchase *, void *), void *ctx)
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    struct cp_purchase p;
    int r = cp_sql_query(s->c, &rows, "SELECT " PURCHASE_COLUMNS " WHERE application_id=$1 ORDER BY number",
                         "t", application_id);

    if (r < 0)
        return r;
    while ((r = cp_rows_next(rows)) > 0) {
        purchase_read(rows, &p);
        r = fn(&p, ctx);
        if (r != 0)
            return r;
    }
    return r;
}

int cp_store_await_purchase(struct cp_store *s, const char *contract_id, const char *subscription,
                            uint64_t now_us)
{
    int r = store_run(s, "DELETE FROM awaited_purchases WHERE contract_id=$1", "t", contract_id);

    if (r < 0 || !subscription)
        return r;
    r = store_run(s, "INSERT INTO awaited_purchases VALUES($1,$2)", "tt", contract_id, subscription);
    return r < 0
               ? r
               : store_run(s, "UPDATE applications SET check_us=$1, tries=0 WHERE state='held'", "u", now_us);
}

int cp_store_awaited_purchase(struct cp_store *s, const char *contract_id, char ret[static 37])
{
    _cleanup_rows_ struct cp_rows *rows = NULL;
    int r = cp_sql_query(s->c, &rows, "SELECT subscription FROM awaited_purchases WHERE contract_id=$1", "t",
                         contract_id);

    if (r == 0)
        r = cp_rows_next(rows);
    ret[0] = '\0';
    if (r > 0)
        cp_rows_text(rows, 0, ret, 37);
    return MIN(r, 0);
}
