/* SPDX-License-Identifier: Apache-2.0 */
/* terms by which the control plane bills contracts, and the submitter's events */
#include <inttypes.h>
#include <string.h>

#include "common/units.h"
#include "controlplane/admin/call.h"

/* -- terms ------------------------------------------------------------------------------------- */

/* The contract is there; *ret_terms: b has its terms. */
static int billing_find(struct cp_store *s, struct cp_call *c, struct cp_billing *b, bool *ret_terms)
{
    const char *id = c->arg[0];
    struct cp_contract k;
    int r = tb_id_valid(id) ? cp_store_get_contract(s, id, c->now_us, &k) : -ENOENT;

    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "contract", id) : r;
    r = cp_store_get_billing(s, id, b);
    *ret_terms = r == 0;
    return r == -ENOENT ? 0 : r;
}

static int billing_answer(struct cp_call *c, const struct cp_billing *b)
{
    cJSON *o = cp_say(c, 200);

    cp_show_billing(o, c->arg[0], b);
    return o ? 0 : -ENOMEM;
}

static cJSON *billing_facts(const struct cp_call *c, const struct cp_billing *b)
{
    cJSON *o = cJSON_CreateObject();

    cp_show_billing(o, c->arg[0], b);
    return o;
}

int cp_admin_billing_show(struct cp_store *s, struct cp_call *c)
{
    struct cp_billing b;
    bool terms = false;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r == 0)
        r = billing_find(s, c, &b, &terms);
    return r < 0 ? r : billing_answer(c, terms ? &b : NULL);
}

static int billing_apply(struct cp_call *c, struct cp_billing *b)
{
    struct cp_dimension d[TB_USAGE_DIMENSIONS];
    size_t n;
    int r = cp_body_only(c, "resource", "plan", "dimensions");

    if (r == 0)
        r = cp_body_id(c, "plan", &cp_plain_id, NULL, b->plan, sizeof(b->plan));
    if (r == 0)
        r = cp_body_id(c, "dimensions", &cp_any_text, NULL, b->dimensions, sizeof(b->dimensions));
    if (r == 0)
        r = cp_body_id(c, "resource", &cp_any_text, "", b->resource, sizeof(b->resource));
    if (r == 0 && *b->resource && !cp_billing_resource_valid(b->resource))
        r = cp_refuse_body(c, "resource is neither a resourceUsageId nor an ARM id");
    if (r == 0 && cp_dimensions_parse(b->dimensions, d, &n) < 0)
        r = cp_refuse_body(c, "dimensions is not a list like " CP_DIMENSIONS_WORDS);
    strcpy(b->contract_id, c->arg[0]);
    return r;
}

int cp_admin_billing_set(struct cp_store *s, struct cp_call *c)
{
    struct cp_billing was, b = {0};
    bool terms = false;
    int r = billing_find(s, c, &was, &terms);

    if (r == 0)
        r = billing_apply(c, &b);
    if (r == 0)
        r = cp_store_put_billing(s, &b, c->now_us);
    if (r == 0)
        r = cp_store_get_billing(s, c->arg[0], &b);
    if (r == 0)
        r = cp_note(s, c, "contract.bill", c->arg[0], billing_facts(c, terms ? &was : NULL),
                    billing_facts(c, &b));
    return r < 0 ? r : billing_answer(c, &b);
}

int cp_admin_billing_end(struct cp_store *s, struct cp_call *c)
{
    struct cp_billing was;
    bool terms = false;
    int r = billing_find(s, c, &was, &terms);

    if (r < 0)
        return r;
    r = cp_store_remove_billing(s, c->arg[0]);
    if (r == -ENOENT)
        return cp_refuse(c, 404, "billing_unknown", "contract %s is not billed here", c->arg[0]);
    if (r == -EBUSY)
        return cp_refuse(
            c, 409, "usage_reported",
            "usage of contract %s was reported already, and stays billed here; make a new contract",
            c->arg[0]);
    if (r == 0)
        r = cp_note(s, c, "contract.bill", c->arg[0], billing_facts(c, &was), billing_facts(c, NULL));
    return r < 0 ? r : billing_answer(c, NULL);
}

/* -- the submitter ----------------------------------------------------------------------------- */
int cp_admin_submitter_show(struct cp_store *s, struct cp_call *c)
{
    struct cp_billing_summary u;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r == 0)
        r = cp_store_summarise_billing(s, &u);
    if (r < 0)
        return r;
    cp_show_submitter(cp_say(c, 200), &u, c->now_us);
    return 0;
}

static int event_row(const struct cp_event_row *w, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_event(o, w);
        snprintf(l->last, sizeof(l->last), "%" PRId64 ":%s:%s", w->e.hour, w->e.dimension, w->e.resource);
    }
    return r;
}

/* "HOUR:DIMENSION:RESOURCE" */
static int event_read_after(struct cp_call *c, char dimension[static TB_METERING_NAME_MAX],
                            struct cp_event_page *p)
{
    const char *after = cp_query_text(c, "after"), *colon = strchr(after, ':'),
               *second = colon ? strchr(colon + 1, ':') : NULL;
    char hour[24];
    uint64_t n = 0;

    if (!*after)
        return 0;
    snprintf(hour, sizeof(hour), "%.*s", colon ? (int)(colon - after) : 0, after);
    if (!second || second - colon > TB_METERING_NAME_MAX || tb_uint_parse(hour, 0, TB_JSON_INT_MAX, &n) < 0)
        return cp_refuse_body(c, "the parameter after is not what a page before had as next");
    snprintf(dimension, TB_METERING_NAME_MAX, "%.*s", (int)(second - colon - 1), colon + 1);
    p->after_hour = (int64_t)n;
    p->after_dimension = dimension;
    p->after_resource = second + 1;
    return 0;
}

int cp_admin_event_list(struct cp_store *s, struct cp_call *c)
{
    static const char *const states[] = {"unaccepted", "all", NULL};
    struct cp_event_page page = {CP_EVENT_PAGE_FIRST};
    char dimension[TB_METERING_NAME_MAX];
    const char *state = "";
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after", "state");

    if (r == 0)
        r = cp_query_word(c, "state", states, &state);
    if (r == 0)
        r = event_read_after(c, dimension, &page);
    if (r == 0)
        r = cp_listing_begin(c, "events", &l);
    if (r < 0)
        return r;
    page.unaccepted = strcmp(state, "all") != 0;
    page.limit = l.limit + 1;
    return cp_listing_end(&l, cp_store_each_event(s, &page, event_row, &l));
}

int cp_admin_event_resolve(struct cp_store *s, struct cp_call *c)
{
    char resource[TB_METERING_RESOURCE_MAX], dimension[TB_METERING_NAME_MAX], verdict[12],
        hour[TB_RFC3339_MAX];
    bool accepted;
    uint64_t hour_us = 0;
    cJSON *facts, *o;
    int r = cp_body_only(c, "resource", "dimension", "hour", "verdict");

    if (r == 0)
        r = cp_body_id(c, "resource", &cp_any_text, NULL, resource, sizeof(resource));
    if (r == 0)
        r = cp_body_id(c, "dimension", &cp_plain_id, NULL, dimension, sizeof(dimension));
    if (r == 0)
        r = cp_body_time(c, c->body, "hour", false, &hour_us);
    if (r == 0 && (!hour_us || hour_us % TB_USEC_PER_HOUR))
        r = cp_refuse_body(c, "hour is not the beginning of an hour, as an event has it");
    if (r == 0)
        r = cp_body_id(c, "verdict", &cp_any_text, NULL, verdict, sizeof(verdict));
    if (r < 0)
        return r;
    accepted = strcmp(verdict, "accepted") == 0;
    if (!accepted && strcmp(verdict, "missing") != 0)
        return cp_refuse_body(c, "verdict is not accepted or missing");
    r = cp_store_resolve_event(s, resource, dimension, tb_metering_hour(hour_us), accepted);
    if (r == -ENOENT)
        return cp_refuse(c, 404, "event_unknown",
                         "there is no parked event in doubt of this resource, dimension and hour; list them");
    facts = cJSON_CreateObject();
    cJSON_AddStringToObject(facts, "dimension", dimension);
    cJSON_AddStringToObject(facts, "hour", tb_metering_hour_text(tb_metering_hour(hour_us), hour));
    cJSON_AddStringToObject(facts, "verdict", verdict);
    o = cp_say(c, 200);
    cJSON_AddStringToObject(o, "resource", resource);
    cJSON_AddStringToObject(o, "dimension", dimension);
    cJSON_AddStringToObject(o, "hour", hour);
    cJSON_AddStringToObject(o, "verdict", verdict);
    if (r < 0 || !o) {
        cJSON_Delete(facts);
        return r < 0 ? r : -ENOMEM;
    }
    return cp_note(s, c, "submitter.resolve", resource, NULL, facts);
}
