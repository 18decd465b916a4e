/* SPDX-License-Identifier: Apache-2.0 */
/* offers, and the purchases that contracts come from */
#include <inttypes.h>
#include <string.h>

#include "common/units.h"
#include "controlplane/admin/call.h"
#include "controlplane/purchase/notice.h"

#define OFFER_HW_MAX 1000000

/* -- offers ------------------------------------------------------------------------------------ */
static int offer_row(const struct cp_offer *f, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_offer(o, f);
        snprintf(l->last, sizeof(l->last), "%s", f->offer_id);
    }
    return r;
}

int cp_admin_offer_list(struct cp_store *s, struct cp_call *c)
{
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after");

    if (r == 0)
        r = cp_listing_begin(c, "offers", &l);
    return r < 0 ? r
                 : cp_listing_end(
                       &l, cp_store_each_offer(s, cp_query_text(c, "after"), l.limit + 1, offer_row, &l));
}

static int offer_find(struct cp_store *s, struct cp_call *c, struct cp_offer *ret)
{
    return tb_id_valid(c->arg[0]) ? cp_store_get_offer(s, c->arg[0], ret) : -ENOENT;
}

static int offer_answer(struct cp_call *c, unsigned status, const struct cp_offer *f)
{
    cJSON *o = cp_say(c, status);

    cp_show_offer(o, f);
    return o ? 0 : -ENOMEM;
}

static cJSON *offer_facts(const struct cp_offer *f)
{
    cJSON *o = cJSON_CreateObject();

    cp_show_offer(o, f);
    return o;
}

int cp_admin_offer_show(struct cp_store *s, struct cp_call *c)
{
    struct cp_offer f;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r == 0)
        r = offer_find(s, c, &f);
    if (r == -ENOENT)
        return cp_refuse_unknown(c, "offer", c->arg[0]);
    return r < 0 ? r : offer_answer(c, 200, &f);
}

static int offer_apply_source(struct cp_call *c, struct cp_offer *f)
{
    bool plan = tb_json_member(c->body, "plan"), definition = tb_json_member(c->body, "definition");
    char text[CP_SOURCE_MAX + 1];
    int r;

    if (plan == definition)
        return cp_refuse_body(c, "one of plan and definition says what is sold");
    r = cp_body_id(c, plan ? "plan" : "definition", &cp_any_text, NULL, text, sizeof(text));
    if (r < 0)
        return r;
    if ((plan ? cp_plan_read(text, f->source) : cp_definition_read(text, f->source)) < 0)
        return plan ? cp_refuse_body(c, "plan is not PUBLISHER/PRODUCT/PLAN")
                    : cp_refuse_body(c, "definition is not /subscriptions/.../applicationDefinitions/NAME");
    return 0;
}

static int offer_apply_dimensions(struct cp_call *c, struct cp_offer *f)
{
    struct cp_dimension d[TB_USAGE_DIMENSIONS];
    size_t n;
    int r = cp_body_id(c, "dimensions", &cp_any_text, "", f->dimensions, sizeof(f->dimensions));

    if (r == 0 && *f->dimensions && tb_json_member(c->body, "definition"))
        r = cp_refuse_body(c, "dimensions are of a plan; a definition of a service catalog is not metered");
    if (r == 0 && *f->dimensions && cp_dimensions_parse(f->dimensions, d, &n) < 0)
        r = cp_refuse_body(c, "dimensions is not a list like " CP_DIMENSIONS_WORDS);
    return r;
}

static int offer_apply(struct cp_call *c, struct cp_offer *f)
{
    int r = cp_body_only(c, "plan", "definition", "asset_id", "version", "mode", "dimensions",
                         "lease_seconds", "max_hw", "slot_ttl_seconds");

    if (r == 0)
        r = offer_apply_source(c, f);
    if (r == 0)
        r = cp_body_id(c, "asset_id", &cp_asset_id, NULL, f->asset_id, sizeof(f->asset_id));
    if (r == 0)
        r = cp_body_uint(c, c->body, "version", 1, TB_JSON_INT_MAX, true, &f->version);
    if (r == 0)
        r = cp_body_mode(c, &f->mode);
    if (r == 0)
        r = offer_apply_dimensions(c, f);
    if (r == 0)
        r = cp_body_uint(c, c->body, "lease_seconds", 1, CP_LEASE_SECONDS_MAX, false, &f->lease_seconds);
    if (r == 0)
        r = cp_body_uint(c, c->body, "max_hw", 1, OFFER_HW_MAX, true, &f->max_hw);
    if (r == 0)
        r = cp_body_uint(c, c->body, "slot_ttl_seconds", 1, CP_LEASE_SECONDS_MAX, false, &f->slot_ttl_s);
    return r;
}

/* The asset may come after the offer, as purchases come after both; a name that is misspelt is told now. */
static int offer_check_asset(struct cp_store *s, struct cp_call *c, const struct cp_offer *f)
{
    struct cp_asset a;
    int r = cp_store_get_asset(s, f->asset_id, f->version, &a);

    if (r != -ENOENT)
        return r;
    return f->version
               ? cp_refuse(c, 422, "asset_unknown",
                           "there is no asset %s with a version %" PRIu64 "; register it first", f->asset_id,
                           f->version)
               : cp_refuse(c, 422, "asset_unknown", "there is no asset %s; register it first", f->asset_id);
}

int cp_admin_offer_put(struct cp_store *s, struct cp_call *c)
{
    struct cp_offer was, f = {.mode = CP_MODE_ENROLLED,
                              .lease_seconds = CP_LEASE_SECONDS_DEFAULT,
                              .slot_ttl_s = CP_SLOT_TTL_DEFAULT,
                              .created_us = c->now_us};
    bool exists;
    int r;

    if (!tb_id_valid(c->arg[0]))
        return cp_refuse_body(c, "the offer's name is not %s", cp_plain_id.words);
    strcpy(f.offer_id, c->arg[0]);
    r = offer_find(s, c, &was);
    if (r < 0 && r != -ENOENT)
        return r;
    exists = r == 0;
    if (exists)
        f.created_us = was.created_us;
    r = offer_apply(c, &f);
    if (r == 0)
        r = offer_check_asset(s, c, &f);
    if (r == 0)
        r = cp_store_put_offer(s, &f, c->now_us);
    if (r == -EEXIST)
        return cp_refuse(c, 409, "plan_taken", "another offer has %s; list the offers to see which",
                         f.source);
    if (r == 0)
        r = cp_note(s, c, "offer.add", f.offer_id, exists ? offer_facts(&was) : NULL, offer_facts(&f));
    return r < 0 ? r : offer_answer(c, exists ? 200 : 201, &f);
}

int cp_admin_offer_remove(struct cp_store *s, struct cp_call *c)
{
    struct cp_offer f;
    int r = offer_find(s, c, &f);

    if (r == -ENOENT)
        return cp_refuse_unknown(c, "offer", c->arg[0]);
    if (r == 0)
        r = cp_store_remove_offer(s, f.offer_id);
    if (r == 0)
        r = cp_note(s, c, "offer.remove", f.offer_id, offer_facts(&f), NULL);
    return r < 0 ? r : offer_answer(c, 200, &f);
}

/* -- purchases --------------------------------------------------------------------------------- */
static int purchase_row(const struct cp_application *a, void *ctx)
{
    struct cp_listing *l = ctx;
    int r;
    cJSON *o = cp_listing_row(l, &r);

    if (o) {
        cp_show_application(o, a);
        snprintf(l->last, sizeof(l->last), "%" PRIu64 ":%s", a->created_us, a->application_id);
    }
    return r;
}

/* "TIME:APPLICATION" */
static int purchase_read_after(struct cp_call *c, struct cp_application_page *p)
{
    const char *after = cp_query_text(c, "after"), *colon = strchr(after, ':');
    char time[24];

    if (!*after)
        return 0;
    snprintf(time, sizeof(time), "%.*s", colon ? (int)(colon - after) : 0, after);
    if (!colon || tb_uint_parse(time, 0, INT64_MAX, &p->after_us) < 0)
        return cp_refuse_body(c, "the parameter after is not what a page before had as next");
    p->after = colon + 1;
    return 0;
}

int cp_admin_purchase_list(struct cp_store *s, struct cp_call *c)
{
    static const char *const states[] = {"new", "granted", "ended", "held", NULL};
    struct cp_application_page page = {.after = ""};
    struct cp_listing l;
    int r = cp_query_only(c, "limit", "after", "contract_id", "state");

    if (r == 0)
        r = cp_query_contract(c, &page.contract_id);
    if (r == 0)
        r = cp_query_word(c, "state", states, &page.state);
    if (r == 0)
        r = purchase_read_after(c, &page);
    if (r == 0)
        r = cp_listing_begin(c, "purchases", &l);
    if (r < 0)
        return r;
    page.limit = l.limit + 1;
    return cp_listing_end(&l, cp_store_each_application(s, &page, purchase_row, &l));
}

/* What purchase_id is the hash of is not kept by it: they are looked through, which a person may wait for. */
struct purchase_search {
    const char *id;
    struct cp_application *ret;
};

static int purchase_compare(const struct cp_application *a, void *ctx)
{
    struct purchase_search *x = ctx;
    char own[TB_APPLICATION_CONTRACT_MAX + 1];

    if (tb_application_contract(a->application_id, own) < 0 || strcmp(own, x->id) != 0)
        return 0;
    *x->ret = *a;
    return 1;
}

static int purchase_find(struct cp_store *s, const char *id, struct cp_application *ret)
{
    const struct cp_application_page all = {
        .contract_id = "", .state = "", .after = "", .limit = CP_STORE_LOG_MAX};
    struct purchase_search x = {id, ret};
    int r = tb_id_valid(id) ? cp_store_get_application_of(s, id, ret) : -ENOENT;

    if (r != -ENOENT || !tb_id_valid(id))
        return r;
    r = cp_store_each_application(s, &all, purchase_compare, &x);
    return r < 0 ? r : r == 0 ? -ENOENT : 0;
}

static int purchase_add(const struct cp_purchase *p, void *ctx)
{
    cJSON *o = cJSON_CreateObject();

    if (!o || !cJSON_AddItemToArray(ctx, o))
        return -ENOMEM;
    cp_show_purchase(o, p);
    return 0;
}

int cp_admin_purchase_show(struct cp_store *s, struct cp_call *c)
{
    struct cp_application a = {0};
    cJSON *o, *terms;
    int r = cp_query_check(c, (const char *const[]){NULL});

    if (r == 0)
        r = purchase_find(s, c->arg[0], &a);
    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "purchase", c->arg[0]) : r;
    o = cp_say(c, 200);
    cp_show_application(o, &a);
    terms = cJSON_AddArrayToObject(o, "terms");
    return terms ? cp_store_each_purchase(s, a.application_id, purchase_add, terms) : -ENOMEM;
}

int cp_admin_contract_await(struct cp_store *s, struct cp_call *c)
{
    const cJSON *m = tb_json_member(c->body, "subscription");
    bool none = m && cJSON_IsNull(m);
    struct cp_contract k;
    char subscription[40];
    cJSON *facts, *o;
    int r = cp_body_only(c, "subscription");

    if (r == 0 && !none)
        r = cp_body_id(c, "subscription", &cp_any_text, NULL, subscription, sizeof(subscription));
    if (r == 0 && !none && !cp_subscription_valid(subscription))
        r = cp_refuse_body(c, "subscription is not the GUID of an Azure subscription, or null");
    if (r == 0)
        r = tb_id_valid(c->arg[0]) ? cp_store_get_contract(s, c->arg[0], c->now_us, &k) : -ENOENT;
    if (r == 0)
        r = cp_store_await_purchase(s, c->arg[0], none ? NULL : subscription, c->now_us);
    if (r < 0)
        return r == -ENOENT ? cp_refuse_unknown(c, "contract", c->arg[0]) : r;
    facts = cJSON_CreateObject();
    o = cp_say(c, 200);
    cJSON_AddStringToObject(o, "contract_id", c->arg[0]);
    if (!none) {
        cJSON_AddStringToObject(o, "subscription", subscription);
        cJSON_AddStringToObject(facts, "subscription", subscription);
    }
    return cp_note(s, c, "contract.await", c->arg[0], NULL, facts);
}
