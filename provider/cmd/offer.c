/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg offer, purchase: what is sold in the marketplace, and who bought it. */
#include <inttypes.h>
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option offers_add_rows[] = {
    TB_OPTION(0, "plan", "PUBLISHER/PRODUCT/PLAN", TB_OPTION_STRING, plan,
              "plan of a Marketplace offer, by its ids in Partner Center"),
    TB_OPTION(0, "definition", "ID", TB_OPTION_STRING, definition,
              "or: resource id of an application definition of a service catalog"),
    TB_OPTION(0, "asset", "ASSET", TB_OPTION_STRING, asset_option,
              "the asset that is sold; ASSET@N holds its contracts to version N"),
    TB_OPTION(0, "dimensions", "LIST", TB_OPTION_STRING, dimensions,
              "what is billed to a purchase, and what the plan calls it: requests,tokens=ktok"),
    ROW_MODE("mode of the contracts: enrolled, certificate or open"),
    ROWS_TERMS,
    TB_OPTION(0, "max-hw", "N", TB_OPTION_CALL, max_hw, "at most N machines of a purchase at a time [any]",
              .set = admin_option_max, .want = ADMIN_MAX_WORDS),
    ROWS_REMOTE_CHANGE,
};
static const struct tb_option offers_read_rows[] = {ROWS_REMOTE};
static const struct tb_option offers_remove_rows[] = {ROWS_REMOTE_CHANGE};
static const struct tb_option purchases_list_rows[] = {
    ROW_OF_CONTRACT,
    TB_OPTION(0, "state", "STATE", TB_OPTION_STRING, state,
              "in this state alone: new, granted, ended, or held (you must do something)"),
    ROWS_REMOTE,
};

static const struct table_column offers_columns[] = {
    {"OFFER", "offer_id", TABLE_TEXT, NULL},
    {"PLAN", "source", TABLE_TEXT, NULL},
    {"ASSET", "asset_id", TABLE_TEXT, NULL},
    {"VERSION", "version", TABLE_TEXT, "current"},
    {"MODE", "mode", TABLE_TEXT, NULL},
    {"MACHINES", "max_hw", TABLE_TEXT, "any"},
    {"LEASE SECONDS", "lease_seconds", TABLE_TEXT, NULL},
    {"DIMENSIONS", "dimensions", TABLE_TEXT, NULL},
};
static const struct table_column purchases_list_columns[] = {
    {"PURCHASE", "purchase_id", TABLE_TEXT, NULL}, {"STATE", "state", TABLE_TEXT, NULL},
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL}, {"PLAN", "source", TABLE_TEXT, NULL},
    {"CHANGED", "updated_at", TABLE_TEXT, NULL},   {"PROBLEM", "problem", TABLE_TEXT, ""},
};
static const struct table_column purchases_show_columns[] = {
    {"PURCHASE", "purchase_id", TABLE_TEXT, NULL},
    {"APPLICATION", "application_id", TABLE_TEXT, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},
    {"PROBLEM", "problem", TABLE_TEXT, NULL},
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"PLAN", "source", TABLE_TEXT, NULL},
    {"RESOURCE USAGE ID", "resource_usage_id", TABLE_TEXT, NULL},
    {"MANAGED GROUP", "managed_group", TABLE_TEXT, NULL},
    {"EVENT", "event", TABLE_TEXT, NULL},
    {"CREATED", "created_at", TABLE_TEXT, NULL},
    {"CHANGED", "updated_at", TABLE_TEXT, NULL},
};
static const struct table_column purchases_terms_columns[] = {
    {"TERM", "number", TABLE_TEXT, NULL}, {"FROM", "from", TABLE_TEXT, NULL},
    {"TO", "to", TABLE_TEXT, "goes on"},  {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"PLAN", "source", TABLE_TEXT, NULL}, {"RESOURCE USAGE ID", "resource_usage_id", TABLE_TEXT, NULL},
};

/* -- offers ------------------------------------------------------------------------------------ */
static int offers_check_add(struct admin_job *j)
{
    if (!j->plan == !j->definition)
        return cli_usage(&j->cli, "give one of --plan and --definition");
    if (!*j->asset || strcmp(j->asset, "*") == 0)
        return cli_usage(&j->cli, "--asset is missing: one asset, which is sold");
    if (j->dimensions && j->definition)
        return cli_usage(&j->cli, "--dimensions is for --plan: a service catalog does not meter");
    return CLI_OK;
}

static int offers_add(struct admin_job *j)
{
    const struct remote_object object = {"offer", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("offers", j->operand);
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *offer = NULL;
    int rc;

    cJSON_AddStringToObject(body, j->plan ? "plan" : "definition", j->plan ? j->plan : j->definition);
    cJSON_AddStringToObject(body, "asset_id", j->asset);
    if (j->version)
        tb_json_add_uint(body, "version", j->version);
    if (j->mode)
        cJSON_AddStringToObject(body, "mode", j->mode);
    if (j->dimensions)
        cJSON_AddStringToObject(body, "dimensions", j->dimensions);
    if (j->lease_seconds)
        tb_json_add_uint(body, "lease_seconds", j->lease_seconds);
    if (j->max_hw)
        tb_json_add_uint(body, "max_hw", j->max_hw);
    if (j->slot_ttl_s)
        tb_json_add_uint(body, "slot_ttl_seconds", j->slot_ttl_s);
    rc = remote_change(&j->remote, "PUT", path, body, &object, &offer);
    if (rc != CLI_OK)
        return rc;
    return admin_print_done(j, offer, "Whoever buys %s gets a contract for %s.", admin_text(offer, "source"),
                            j->asset);
}

static int offers_list(struct admin_job *j)
{
    return admin_list(j, "offers", "offers", offers_columns, ARRAY_SIZE(offers_columns));
}

static int offers_show(struct admin_job *j)
{
    const struct remote_object object = {"offer", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("offers", j->operand);
    _cleanup_json_ cJSON *offer = NULL;
    int rc = remote_get(&j->remote, path, &object, &offer);

    return rc == CLI_OK ? admin_print_object(j, offer, offers_columns, ARRAY_SIZE(offers_columns)) : rc;
}

static int offers_remove(struct admin_job *j)
{
    const struct remote_object object = {"offer", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("offers", j->operand);
    _cleanup_json_ cJSON *offer = NULL;
    int rc = remote_change(&j->remote, "DELETE", path, NULL, &object, &offer);

    if (rc != CLI_OK)
        return rc;
    return admin_print_done(j, offer, "Offer %s is removed; contracts of earlier purchases stay.",
                            j->operand);
}

static const struct admin_command offers_commands[] = {
    {
        .c = {.name = "offer add",
              .summary = "say what a plan is sold with, or change it",
              .synopsis = "OFFER --plan PUBLISHER/PRODUCT/PLAN --asset ASSET [OPTION]...",
              .about =
                  "Say which contract a purchase of a plan makes. An offer of the same name is replaced: "
                  "its\n"
                  "contracts stay as they are.\n",
              .options = offers_add_rows},
        .operand = "OFFER",
        .check = offers_check_add,
        .work = offers_add,
    },
    {
        .c = {.name = "offer list",
              .summary = "list offers",
              .synopsis = "[OPTION]...",
              .about = "List offers.\n",
              .options = offers_read_rows},
        .work = offers_list,
    },
    {
        .c = {.name = "offer show",
              .summary = "show an offer",
              .synopsis = "OFFER [OPTION]...",
              .about = "Show one offer.\n",
              .options = offers_read_rows},
        .operand = "OFFER",
        .work = offers_show,
    },
    {
        .c = {.name = "offer remove",
              .summary = "sell a plan no more",
              .synopsis = "OFFER [OPTION]...",
              .about = "Forget an offer: the next purchase of its plan is held. Contracts of earlier ones "
                       "stay.\n",
              .options = offers_remove_rows},
        .operand = "OFFER",
        .work = offers_remove,
    },
};

static int offers_main(int argc, char **argv)
{
    static const struct admin_group group = {
        "offer", "Offers: which plan of the marketplace is sold with which contract.\n", offers_commands,
        ARRAY_SIZE(offers_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_offer = {.name = "offer",
                                          .summary =
                                              "marketplace plans that are sold: add, list, show, remove",
                                          .run = offers_main};

/* -- purchases --------------------------------------------------------------------------------- */
static int purchases_list(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("purchases"), "contract_id", j->contract);

    path = remote_query(path, "state", j->state);
    return admin_list(j, path, "purchases", purchases_list_columns, ARRAY_SIZE(purchases_list_columns));
}

static int purchases_show(struct admin_job *j)
{
    const struct remote_object object = {"purchase", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("purchases", j->operand);
    _cleanup_json_ cJSON *purchase = NULL;
    int rc = remote_get(&j->remote, path, &object, &purchase);

    if (rc == CLI_OK)
        rc = admin_print_object(j, purchase, purchases_show_columns, ARRAY_SIZE(purchases_show_columns));
    if (rc != CLI_OK || j->cli.json)
        return rc;
    putchar('\n');
    return table_print(tb_json_member(purchase, "terms"), purchases_terms_columns,
                       ARRAY_SIZE(purchases_terms_columns));
}

static const struct admin_command purchases_commands[] = {
    {
        .c = {.name = "purchase list",
              .summary = "list what customers bought",
              .synopsis = "[OPTION]...",
              .about = "List the managed applications that customers deployed, and the contract of each. One "
                       "that is held\n"
                       "waits for you: PROBLEM says for what.\n",
              .options = purchases_list_rows},
        .work = purchases_list,
    },
    {
        .c = {.name = "purchase show",
              .summary = "show a purchase, and to what its usage is billed when",
              .synopsis = "PURCHASE [OPTION]...",
              .about = "Show one purchase: by its id, or by the contract that it made.\n",
              .options = offers_read_rows},
        .operand = "PURCHASE",
        .work = purchases_show,
    },
};

static int purchases_main(int argc, char **argv)
{
    static const struct admin_group group = {"purchase", "Purchases in the marketplace.\n",
                                             purchases_commands, ARRAY_SIZE(purchases_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_purchase = {.name = "purchase",
                                             .summary =
                                                 "what customers bought in the marketplace: list, show",
                                             .run = purchases_main};
