/* SPDX-License-Identifier: Apache-2.0 */
/* offer add, list, remove; contract await; purchase list. */
#include <string.h>
#include <strings.h>

#include "common/json.h"
#include "common/units.h"
#include "controlplane/admin/show.h"
#include "controlplane/cmd/cmd.h"
#include "controlplane/purchase/notice.h"

#define TB_OPTION_TARGET struct cp_options
const struct tb_option cp_offer_add_options[] = {
    TB_OPTION(0, "plan", "PUBLISHER/PRODUCT/PLAN", TB_OPTION_STRING, plan,
              "plan of a Marketplace offer, by its ids in Partner Center"),
    TB_OPTION(0, "definition", "ID", TB_OPTION_STRING, definition,
              "or: resource id of an application definition of a service catalog"),
    TB_OPTION(0, "asset", "ID", TB_OPTION_STRING, asset, "the asset that is sold (required)"),
    TB_OPTION(0, "version", "N", TB_OPTION_UINT, version,
              "this version of the asset for good (default: the current one)", .min = 1, .max = INT64_MAX),
    TB_OPTION(0, "mode", "MODE", TB_OPTION_STRING, mode,
              "mode of the contracts: enrolled (default), certificate or open"),
    TB_OPTION(0, "dimensions", "LIST", TB_OPTION_STRING, dimensions,
              "what is billed to a purchase from here, and what the offer calls it: requests,tokens=ktok"),
    CP_LEASE_ROW,
    TB_OPTION(0, "max-hw", "N", TB_OPTION_UINT, max_hw,
              "at most N different machines of a purchase at a time (default: any number)", .min = 1,
              .max = 1000000),
    TB_OPTION(0, "slot-ttl", "SECONDS", TB_OPTION_UINT, slot_ttl_s,
              "a machine that is not seen for its lease and this long makes room for another (default 86400)",
              .min = 1, .max = CP_LEASE_SECONDS_MAX),
    CP_COMMON_ROWS,
};
const struct tb_option cp_contract_await_options[] = {
    TB_OPTION(0, "subscription", "GUID", TB_OPTION_STRING, subscription,
              "Azure subscription of the customer (required)"),
    CP_COMMON_ROWS,
};

/* -- offers ------------------------------------------------------------------------------------ */
struct offer_job {
    const struct cp_options *o;
    struct cp_offer offer;
};

static int offer_store(struct cp_store *s, void *ctx)
{
    struct offer_job *j = ctx;
    char actor[64];
    int r = cp_store_put_offer(s, &j->offer, tb_now_realtime_us());

    return r < 0
               ? r
               : cp_change(s, tb_now_realtime_us(), cp_actor(actor), "offer.add", j->offer.offer_id, "source",
                           j->offer.source, "asset", j->offer.asset_id, "mode", cp_mode_names[j->offer.mode]);
}

static int offer_read_source(const struct cp_options *o, char ret[static CP_SOURCE_MAX + 1])
{
    if (!o->plan == !o->definition)
        return cp_fail(o, TB_EXIT_USAGE, "give one of --plan and --definition");
    if (o->plan && cp_plan_read(o->plan, ret) < 0)
        return cp_fail(o, TB_EXIT_USAGE, "--plan %s is not PUBLISHER/PRODUCT/PLAN", o->plan);
    if (o->definition && cp_definition_read(o->definition, ret) < 0)
        return cp_fail(o, TB_EXIT_USAGE,
                       "--definition %s is not /subscriptions/.../applicationDefinitions/NAME",
                       o->definition);
    return 0;
}

static int offer_from_options(const struct cp_options *o, struct cp_offer *f)
{
    struct cp_dimension d[TB_USAGE_DIMENSIONS];
    size_t n;
    int r = offer_read_source(o, f->source);

    if (r != 0)
        return r;
    if (!o->asset || !tb_asset_id_valid(o->asset))
        return cp_fail(o, TB_EXIT_USAGE, "--asset ID: what an asset may be called is " TB_ASSET_ID_WORDS);
    r = cp_find_mode(o, &f->mode);
    if (r != 0)
        return r;
    if (o->dimensions && (o->definition || cp_dimensions_parse(o->dimensions, d, &n) < 0))
        return cp_fail(o, TB_EXIT_USAGE,
                       "--dimensions \"%s\" is for --plan, a list like requests,tokens=ktok of requests, "
                       "prompt_tokens, completion_tokens, cached_tokens, tokens, bytes, gb_transferred",
                       o->dimensions);
    snprintf(f->dimensions, sizeof(f->dimensions), "%s", o->dimensions ? o->dimensions : "");
    strcpy(f->offer_id, o->operand);
    strcpy(f->asset_id, o->asset);
    f->version = o->version;
    f->lease_seconds = o->lease_seconds ? o->lease_seconds : CP_LEASE_SECONDS_DEFAULT;
    f->max_hw = o->max_hw;
    f->slot_ttl_s = o->slot_ttl_s ? o->slot_ttl_s : CP_SLOT_TTL_DEFAULT;
    return 0;
}

int cp_run_offer_add(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    struct offer_job j = {.o = o};
    int r = offer_from_options(o, &j.offer);

    if (r == 0)
        r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, offer_store, &j);
    if (r == -EEXIST)
        return cp_fail(o, TB_EXIT_USAGE, "another offer has the plan %s; `offer list` names it",
                       j.offer.source);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

static int offer_drop(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    char actor[64];
    int r = cp_store_remove_offer(s, o->operand);

    return r < 0 ? r : cp_change(s, tb_now_realtime_us(), cp_actor(actor), "offer.remove", o->operand, NULL);
}

int cp_run_offer_remove(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    r = cp_store_transact(s, offer_drop, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no offer %s; `offer list` names them", o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}

/* -- listings ---------------------------------------------------------------------------------- */
static int offer_show(const struct cp_offer *f, void *ctx)
{
    cJSON *array = ctx, *o;

    if (!array) {
        printf("%-24s %-60s %-24s %-11s %6llu\n", f->offer_id, f->source, f->asset_id, cp_mode_names[f->mode],
               (unsigned long long)f->max_hw);
        return 0;
    }
    o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(array, o))
        return -ENOMEM;
    cp_show_offer(o, f);
    return 0;
}

static int application_show(const struct cp_application *a, void *ctx)
{
    cJSON *array = ctx, *o;
    char at[TB_RFC3339_MAX];

    if (!array) {
        printf("%-8s %-40s %-20s %s%s%s\n", cp_application_state_names[a->state],
               *a->contract_id ? a->contract_id : "-", tb_rfc3339_format(a->updated_us, 0, at),
               a->application_id, *a->problem ? "\n         " : "", a->problem);
        return 0;
    }
    o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(array, o))
        return -ENOMEM;
    cp_show_application(o, a);
    return 0;
}

static int offer_print(const struct cp_options *o, cJSON *array)
{
    char *text;

    if (array) {
        text = cJSON_Print(array);
        if (!text)
            return cp_fail(o, TB_EXIT_IOERR, "out of memory");
        puts(text);
        free(text);
    }
    return fflush(stdout) == 0 ? TB_EXIT_OK : cp_fail(o, TB_EXIT_IOERR, "cannot write the list");
}

int cp_run_offer_list(const struct cp_options *o)
{
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    if (!array)
        printf("%-24s %-60s %-24s %-11s %6s\n", "OFFER", "PLAN", "ASSET", "MODE", "MAX HW");
    r = cp_store_each_offer(s, "", CP_STORE_LOG_MAX, offer_show, array);
    return r < 0 ? cp_fail_store(o, s, r) : offer_print(o, array);
}

int cp_run_purchase_list(const struct cp_options *o)
{
    const struct cp_application_page page = {
        .contract_id = "", .state = "", .after = "", .limit = CP_STORE_LOG_MAX};
    _cleanup_json_ cJSON *array = o->json ? cJSON_CreateArray() : NULL;
    _cleanup_store_ struct cp_store *s = NULL;
    int r = cp_open(o, &s);

    if (r != 0)
        return r;
    if (!array)
        printf("%-8s %-40s %-20s %s\n", "STATE", "CONTRACT", "CHANGED", "APPLICATION");
    r = cp_store_each_application(s, &page, application_show, array);
    return r < 0 ? cp_fail_store(o, s, r) : offer_print(o, array);
}

/* -- a contract that was agreed on before ------------------------------------------------------- */
static int await_store(struct cp_store *s, void *ctx)
{
    const struct cp_options *o = ctx;
    uint64_t now = tb_now_realtime_us();
    struct cp_contract c;
    char actor[64];
    int r = cp_store_get_contract(s, o->operand, now, &c);

    if (r == 0)
        r = cp_store_await_purchase(s, o->operand, o->subscription, now);
    return r < 0 ? r
                 : cp_change(s, now, cp_actor(actor), "contract.await", o->operand, "subscription",
                             o->subscription);
}

int cp_run_contract_await(const struct cp_options *o)
{
    _cleanup_store_ struct cp_store *s = NULL;
    int r;

    if (!o->subscription || !cp_subscription_valid(o->subscription))
        return cp_fail(o, TB_EXIT_USAGE, "--subscription GUID is missing, or is none");
    r = cp_open(o, &s);
    if (r != 0)
        return r;
    r = cp_store_transact(s, await_store, (void *)o);
    if (r == -ENOENT)
        return cp_fail(o, TB_EXIT_NOINPUT, "there is no contract %s; `contract list` names them", o->operand);
    return r < 0 ? cp_fail_store(o, s, r) : TB_EXIT_OK;
}
