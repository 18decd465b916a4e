/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg contract: who may use which asset. */
#include <inttypes.h>
#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/units.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define CONTRACT_CA_MAX 16384

/* "never" takes an end away: 0, and the option is given. */
static int contracts_option_end(const struct tb_option *o, void *us, char *value,
                                char err[static TB_OPTION_ERR_MAX])
{
    *(uint64_t *)us = 0;
    return strcmp(value, "never") == 0 ? 0 : admin_option_time(o, us, value, err);
}

#define TB_OPTION_TARGET struct admin_job
#define ROWS_CONTRACT                                                                                        \
    ROW_MODE("enrolled: machines enrol by a code; certificate: they have one of a CA of the customer's; "    \
             "open: whoever knows the contract's id gets the key"),                                          \
        TB_OPTION(0, "client-ca", "FILE", TB_OPTION_STRING, client_ca,                                       \
                  "mode certificate: the customer's CAs (PEM)"),                                             \
        TB_OPTION(0, "attest", "LEVEL", TB_OPTION_CALL, attest,                                              \
                  "tpm: the key is sealed to the TPM and the boot of the machine; image: and only to a "     \
                  "boot of an image that --image names; cvm: and its memory is encrypted (SEV-SNP); none",   \
                  .set = admin_option_word, .want = "none, tpm, image or cvm"),                              \
        TB_OPTION(0, "ak", "WHOSE", TB_OPTION_LIST, aks,                                                     \
                  "with --attest: which TPMs: azure, own or pin:SHA256; may be repeated [azure]"),           \
        TB_OPTION(0, "min-tcb", "VERSIONS", TB_OPTION_STRING, min_tcb,                                       \
                  "with --attest cvm: the processor's firmware at least, BOOTLOADER.TEE.SNP.MICROCODE "      \
                  "[any]"),                                                                                  \
        TB_OPTION(0, "id-key", "SHA384", TB_OPTION_LIST, id_keys,                                            \
                  "with --attest cvm: who may have signed the machine's firmware; may be repeated "          \
                  "[anybody]"),                                                                              \
        TB_OPTION(0, "maa", "URL", TB_OPTION_STRING, maa,                                                    \
                  "with --attest cvm: by a token of this instance of Microsoft Azure Attestation "           \
                  "[by AMD's keys]"),                                                                        \
        TB_OPTION(0, "image", "IMAGE", TB_OPTION_LIST, images,                                               \
                  "--attest image or cvm: NAME@VERSION, or NAME for every version; may be repeated"),        \
        TB_OPTION(0, "require-secure-boot", NULL, TB_OPTION_FLAG, secure_boot,                               \
                  "--image: not without Secure Boot"),                                                       \
        TB_OPTION(0, "allow-debug", NULL, TB_OPTION_FLAG, allow_debug,                                       \
                  "--image: images too whose command line lets others in"),                                  \
        ROWS_TERMS

static const struct tb_option contracts_add_rows[] = {
    TB_OPTION(0, "asset", "ASSET", TB_OPTION_STRING, asset_option,
              "the asset that the contract is for; ASSET@N holds it to version N, \"*\" is every asset"),
    ROWS_CONTRACT,
    ROWS_EXPIRES("end of the contract [never]"),
    TB_OPTION(0, "max-hw", "N", TB_OPTION_CALL, max_hw, "at most N machines at a time [any]",
              .set = admin_option_max, .want = ADMIN_MAX_WORDS),
    ROWS_CODE,
    ROWS_REMOTE_CHANGE,
};
static const struct tb_option contracts_edit_rows[] = {
    TB_OPTION(
        0, "asset", "ASSET", TB_OPTION_STRING, asset_option,
        "another asset, or another version: ASSET@N holds it to version N, ASSET follows the current one"),
    ROWS_CONTRACT,
    TB_OPTION(0, "expires", "TIME", TB_OPTION_CALL, expires_us, "end of the contract, or never",
              .set = contracts_option_end, .want = ADMIN_TIME_WORDS ", or never"),
    TB_OPTION(0, "expires-in", "DURATION", TB_OPTION_CALL, expires_us, "the same from now: 90m, 720h, 30d",
              .set = admin_option_from_now, .want = ADMIN_DURATION_WORDS),
    TB_OPTION(0, "max-hw", "N", TB_OPTION_CALL, max_hw, "at most N machines at a time, or any",
              .set = admin_option_max, .want = ADMIN_MAX_WORDS),
    ROWS_REMOTE_CHANGE,
};
static const struct tb_option contracts_list_rows[] = {
    TB_OPTION(0, "asset", "ASSET", TB_OPTION_STRING, asset_option, "of this asset alone"),
    TB_OPTION(0, "state", "STATE", TB_OPTION_STRING, state,
              "in this state alone: active, expired, revoked or denied"),
    ROWS_REMOTE,
};
static const struct tb_option contracts_show_rows[] = {ROWS_REMOTE};
static const struct tb_option contracts_allow_rows[] = {ROWS_REMOTE_CHANGE};
static const struct tb_option contracts_revoke_rows[] = {
    TB_OPTION(0, "reason", "WORD", TB_OPTION_STRING, reason, "what its machines are told [contract_revoked]"),
    ROWS_REMOTE_CHANGE,
};

static const struct tb_option contracts_bill_rows[] = {
    TB_OPTION(0, "resource", "ID", TB_OPTION_STRING, resource,
              "resourceUsageId or ARM id of the customer's managed application [held until it is known]"),
    TB_OPTION(0, "plan", "PLAN", TB_OPTION_STRING, plan, "the offer's plan"),
    TB_OPTION(0, "dimensions", "LIST", TB_OPTION_STRING, dimensions,
              "what is billed, and what the offer calls it: requests,tokens=ktok"),
    TB_OPTION(0, "by-machines", NULL, TB_OPTION_FLAG, by_machines,
              "by its machines again; only before any usage was reported"),
    ROWS_REMOTE_CHANGE,
};
static const struct tb_option contracts_await_rows[] = {
    TB_OPTION(0, "subscription", "GUID", TB_OPTION_STRING, subscription,
              "Azure subscription of the customer; none takes it back"),
    ROWS_REMOTE_CHANGE,
};

static const struct table_column contracts_list_columns[] = {
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL}, {"STATE", "state", TABLE_TEXT, NULL},
    {"ASSET", "reference", TABLE_TEXT, NULL},      {"MODE", "mode", TABLE_TEXT, NULL},
    {"MACHINES", "slots", TABLE_TEXT, NULL},       {"EXPIRES", "expires_at", TABLE_TEXT, "never"},
};
static const struct table_column contracts_show_columns[] = {
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},
    {"REASON", "reason", TABLE_TEXT, NULL},
    {"ASSET", "reference", TABLE_TEXT, NULL},
    {"MODE", "mode", TABLE_TEXT, NULL},
    {"MACHINES", "slots", TABLE_TEXT, NULL},
    {"EXPIRES", "expires_at", TABLE_TEXT, NULL},
    {"LEASE SECONDS", "lease_seconds", TABLE_TEXT, NULL},
    {"SLOT TTL", "slot_ttl_seconds", TABLE_TEXT, NULL},
    {"CREATED", "created_at", TABLE_TEXT, NULL},
    {"CHANGED", "updated_at", TABLE_TEXT, NULL},
};
static const struct table_column contracts_bill_columns[] = {
    {"CONTRACT", "contract_id", TABLE_TEXT, NULL},  {"BILLED BY", "by", TABLE_TEXT, NULL},
    {"RESOURCE", "resource", TABLE_TEXT, NULL},     {"PLAN", "plan", TABLE_TEXT, NULL},
    {"DIMENSIONS", "dimensions", TABLE_TEXT, NULL}, {"CHANGED", "updated_at", TABLE_TEXT, NULL},
};

/* -- what is shown ----------------------------------------------------------------------------- */

/* "my-model@2", and "1/3" machines: as the tables have them. */
static void contracts_add_words(cJSON *c)
{
    uint64_t version = admin_number(c, "version"), max = admin_number(c, "max_hw");
    char text[ADMIN_REFERENCE_MAX + 32];

    if (version)
        snprintf(text, sizeof(text), "%.100s@%" PRIu64, admin_text(c, "asset_id"), version);
    else
        snprintf(text, sizeof(text), "%.100s", admin_text(c, "asset_id"));
    cJSON_AddStringToObject(c, "reference", text);
    if (max)
        snprintf(text, sizeof(text), "%" PRIu64 "/%" PRIu64, admin_number(c, "machines"), max);
    else
        snprintf(text, sizeof(text), "%" PRIu64 "/any", admin_number(c, "machines"));
    cJSON_AddStringToObject(c, "slots", text);
}

static int contracts_print(const struct admin_job *j, cJSON *c)
{
    if (!j->cli.json)
        contracts_add_words(c);
    return admin_print_object(j, c, contracts_show_columns, ARRAY_SIZE(contracts_show_columns));
}

/* -- what is said ------------------------------------------------------------------------------ */

static int contracts_check_list(struct admin_job *j)
{
    if (j->version)
        return cli_usage(&j->cli, "--asset: contracts are listed by asset, not by version: %s", j->asset);
    return CLI_OK;
}

static int contracts_check_add(struct admin_job *j)
{
    return *j->asset ? CLI_OK : cli_usage(&j->cli, "--asset is missing; \"*\" is every asset");
}

static int contracts_check_edit(struct admin_job *j)
{
    static const char *const what[] = {"asset",      "mode",     "client-ca", "lease-seconds", "expires",
                                       "expires-in", "slot-ttl", "max-hw",    "attest"};

    for (size_t i = 0; i < ARRAY_SIZE(what); i++)
        if (cli_given(&j->cli, what[i]))
            return CLI_OK;
    return cli_usage(&j->cli, "say what to change: --asset, --mode, --client-ca, --expires, --lease-seconds, "
                              "--max-hw, --slot-ttl or --attest");
}

static int contracts_add_ca(const struct admin_job *j, cJSON *body)
{
    _cleanup_free_ char *pem = NULL;
    int r;

    if (!j->client_ca)
        return CLI_OK;
    r = tb_read_file(j->client_ca, CONTRACT_CA_MAX, &pem, NULL);
    if (r < 0)
        return tbpkg_fail_errno(j->client_ca, r);
    cJSON_AddStringToObject(body, "client_ca", pem);
    return CLI_OK;
}

static void contracts_add_list(cJSON *o, const char *name, const struct tb_option_list *words)
{
    cJSON *array = words->n ? cJSON_AddArrayToObject(o, name) : NULL;

    for (size_t i = 0; i < words->n; i++)
        cJSON_AddItemToArray(array, cJSON_CreateString(words->v[i]));
}

/* none takes it away. */
static int contracts_add_attest(struct admin_job *j, bool edit, cJSON *body)
{
    bool image = j->attest && strcmp(j->attest, "image") == 0,
         cvm = j->attest && strcmp(j->attest, "cvm") == 0;
    cJSON *o;

    if (!j->attest && (j->aks.n || j->id_keys.n || j->min_tcb || j->maa))
        return cli_usage(&j->cli,
                         "--ak goes with --attest tpm, image or cvm, --min-tcb, --id-key and --maa with cvm");
    if (!image && !cvm && (j->images.n || j->secure_boot || j->allow_debug))
        return cli_usage(&j->cli,
                         "--image, --require-secure-boot and --allow-debug go with --attest image or cvm");
    if (image && !j->images.n)
        return cli_usage(&j->cli, "--attest image needs --image: what may be booted");
    if (!j->attest)
        return CLI_OK;
    if (strcmp(j->attest, "none") == 0) {
        if (edit)
            cJSON_AddNullToObject(body, "attest");
        return CLI_OK;
    }
    o = cJSON_AddObjectToObject(body, "attest");
    cJSON_AddStringToObject(o, "level", j->attest);
    contracts_add_list(o, "ak", &j->aks);
    contracts_add_list(o, "id_keys", &j->id_keys);
    if (j->min_tcb)
        cJSON_AddStringToObject(o, "min_tcb", j->min_tcb);
    if (j->maa)
        cJSON_AddStringToObject(o, "maa", j->maa);
    contracts_add_list(o, "images", &j->images);
    if (j->secure_boot)
        cJSON_AddBoolToObject(o, "secure_boot", true);
    if (j->allow_debug)
        cJSON_AddBoolToObject(o, "allow_debug", true);
    return CLI_OK;
}

/* What add and edit have in common. */
static int contracts_describe(struct admin_job *j, bool edit, cJSON *body)
{
    int rc = contracts_add_attest(j, edit, body);

    if (rc != CLI_OK)
        return rc;
    if (*j->asset) {
        cJSON_AddStringToObject(body, "asset_id", j->asset);
        if (j->version)
            tb_json_add_uint(body, "version", j->version);
        else if (edit)
            cJSON_AddNullToObject(body, "version");
    }
    if (j->mode)
        cJSON_AddStringToObject(body, "mode", j->mode);
    admin_add_time(body, "expires_at", j->expires_us);
    if (edit && !j->expires_us && cli_given(&j->cli, "expires"))
        cJSON_AddNullToObject(body, "expires_at");
    if (j->lease_seconds)
        tb_json_add_uint(body, "lease_seconds", j->lease_seconds);
    if (j->max_hw)
        tb_json_add_uint(body, "max_hw", j->max_hw);
    else if (edit && cli_given(&j->cli, "max-hw"))
        cJSON_AddNullToObject(body, "max_hw");
    if (j->slot_ttl_s)
        tb_json_add_uint(body, "slot_ttl_seconds", j->slot_ttl_s);
    return contracts_add_ca(j, body);
}

/* -- the commands ------------------------------------------------------------------------------ */

static int contracts_add(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *answer = NULL;
    const cJSON *enrolment;
    char machines[40];
    int rc;

    cJSON_AddStringToObject(body, "contract_id", j->operand);
    rc = contracts_describe(j, false, body);
    if (rc == CLI_OK && (j->uses || j->code_expires_us)) {
        cJSON *code = cJSON_AddObjectToObject(body, "code");

        if (j->uses)
            tb_json_add_uint(code, "uses", j->uses);
        admin_add_time(code, "expires_at", j->code_expires_us);
    }
    if (rc == CLI_OK)
        rc = remote_change(&j->remote, "POST", "contracts", body, &object, &answer);
    if (rc != CLI_OK)
        return rc;
    if (j->mode && strcmp(j->mode, "open") == 0)
        tbpkg_warn("whoever knows the id %s gets the key (--mode open)", j->operand);
    if (j->attest && strcmp(j->attest, "cvm") == 0 && !j->id_keys.n && !j->maa)
        tbpkg_warn("without --id-key, whoever has a processor of this kind can run firmware of his own that "
                   "says what contract %s asks for",
                   j->operand);
    enrolment = tb_json_member(answer, "enrolment");
    if (!enrolment && !j->cli.json)
        return tbpkg_note(j->cli.quiet, "Contract %s is active.", j->operand), CLI_OK;
    return admin_print_secret(
        j, answer, admin_text(enrolment, "code"),
        "Contract %s is active. Its enrolment code, for %s until %s, is shown this once:", j->operand,
        admin_machines(admin_number(enrolment, "uses_left"), machines), admin_text(enrolment, "expires_at"));
}

static int contracts_list(struct admin_job *j)
{
    _cleanup_free_ char *path = remote_query(strdup("contracts"), "asset_id", j->asset_option);
    _cleanup_json_ cJSON *doc = NULL;
    cJSON *c;
    int rc;

    path = remote_query(path, "state", j->state);
    rc = remote_list(&j->remote, path, "contracts", &doc);
    if (rc != CLI_OK)
        return rc;
    if (!j->cli.json) {
        cJSON_ArrayForEach (c, tb_json_member(doc, "contracts")) {
            contracts_add_words(c);
        }
    }
    return admin_print_list(j, doc, "contracts", contracts_list_columns, ARRAY_SIZE(contracts_list_columns));
}

static int contracts_show(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand);
    _cleanup_json_ cJSON *c = NULL;
    int rc = remote_get(&j->remote, path, &object, &c);

    return rc == CLI_OK ? contracts_print(j, c) : rc;
}

static int contracts_edit(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand);
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *c = NULL;
    int rc = contracts_describe(j, true, body);

    if (rc == CLI_OK)
        rc = remote_change(&j->remote, "PATCH", path, body, &object, &c);
    return rc == CLI_OK ? contracts_print(j, c) : rc;
}

static int contracts_revoke(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand, "revoke");
    _cleanup_json_ cJSON *body = j->reason ? cJSON_CreateObject() : NULL, *c = NULL;
    int rc;

    if (j->reason)
        cJSON_AddStringToObject(body, "reason", j->reason);
    rc = remote_change(&j->remote, "POST", path, body, &object, &c);
    if (rc != CLI_OK)
        return rc;
    return admin_print_done(
        j, c,
        "Contract %s is refused (%s): its machines learn it at their next renewal, within %" PRIu64 " s.",
        j->operand, admin_text(c, "reason"), admin_number(c, "lease_seconds"));
}

static int contracts_allow(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand, "allow");
    _cleanup_json_ cJSON *c = NULL;
    int rc = remote_change(&j->remote, "POST", path, NULL, &object, &c);

    if (rc != CLI_OK)
        return rc;
    return admin_print_done(j, c, "Contract %s is %s.", j->operand, admin_text(c, "state"));
}

static int contracts_check_bill(struct admin_job *j)
{
    bool terms = j->resource || j->plan || j->dimensions;

    if (terms && j->by_machines)
        return cli_usage(&j->cli, "--by-machines stands alone");
    if (terms && (!j->plan || !j->dimensions))
        return cli_usage(&j->cli, "--plan and --dimensions go together, with or without --resource");
    return CLI_OK;
}

static int contracts_bill(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand, "billing");
    _cleanup_json_ cJSON *body = j->plan ? cJSON_CreateObject() : NULL, *b = NULL;
    int rc;

    if (j->plan) {
        if (j->resource)
            cJSON_AddStringToObject(body, "resource", j->resource);
        cJSON_AddStringToObject(body, "plan", j->plan);
        cJSON_AddStringToObject(body, "dimensions", j->dimensions);
    }
    if (!j->plan && !j->by_machines)
        rc = remote_get(&j->remote, path, &object, &b);
    else
        rc = remote_change(&j->remote, j->plan ? "PUT" : "DELETE", path, body, &object, &b);
    return rc == CLI_OK ? admin_print_object(j, b, contracts_bill_columns, ARRAY_SIZE(contracts_bill_columns))
                        : rc;
}

static int contracts_check_await(struct admin_job *j)
{
    return j->subscription ? CLI_OK : cli_usage(&j->cli, "--subscription is missing");
}

static int contracts_await(struct admin_job *j)
{
    const struct remote_object object = {"contract", j->operand, NULL};
    _cleanup_free_ char *path = remote_path("contracts", j->operand, "await");
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *answer = NULL;
    bool none = strcmp(j->subscription, "none") == 0;
    int rc;

    if (none)
        cJSON_AddNullToObject(body, "subscription");
    else
        cJSON_AddStringToObject(body, "subscription", j->subscription);
    rc = remote_change(&j->remote, "POST", path, body, &object, &answer);
    if (rc != CLI_OK)
        return rc;
    if (none)
        return admin_print_done(j, answer, "Contract %s waits for no purchase.", j->operand);
    return admin_print_done(j, answer, "Contract %s waits for a purchase from subscription %s.", j->operand,
                            j->subscription);
}

static int contracts_check_revoke(struct admin_job *j)
{
    return j->reason ? admin_check_id(j, "--reason", j->reason) : CLI_OK;
}

static const struct admin_command contracts_commands[] = {
    {
        .c = {.name = "contract add",
              .summary = "add an active contract",
              .synopsis = "CONTRACT --asset ASSET [OPTION]...",
              .about = "Add a contract. One of mode enrolled prints an enrolment code for its machines, "
                       "which is shown\n"
                       "this once.\n",
              .options = contracts_add_rows},
        .operand = "CONTRACT",
        .check = contracts_check_add,
        .work = contracts_add,
    },
    {
        .c = {.name = "contract list",
              .summary = "list contracts",
              .synopsis = "[OPTION]...",
              .about = "List contracts. MACHINES: how many slots are taken, and how many there are.\n",
              .options = contracts_list_rows},
        .check = contracts_check_list,
        .work = contracts_list,
    },
    {
        .c = {.name = "contract show",
              .summary = "show a contract",
              .synopsis = "CONTRACT [OPTION]...",
              .about = "Show one contract.\n",
              .options = contracts_show_rows},
        .operand = "CONTRACT",
        .work = contracts_show,
    },
    {
        .c = {.name = "contract edit",
              .summary = "change a contract",
              .synopsis = "CONTRACT [OPTION]...",
              .about =
                  "Change a contract; what is not given stays. Machines learn it at their next renewal.\n",
              .options = contracts_edit_rows},
        .operand = "CONTRACT",
        .check = contracts_check_edit,
        .work = contracts_edit,
    },
    {
        .c = {.name = "contract revoke",
              .summary = "refuse a contract from now on",
              .synopsis = "CONTRACT [OPTION]...",
              .about = "Refuse a contract: its machines stop serving at their next renewal.\n",
              .options = contracts_revoke_rows},
        .operand = "CONTRACT",
        .check = contracts_check_revoke,
        .work = contracts_revoke,
    },
    {
        .c = {.name = "contract allow",
              .summary = "make a contract that was revoked active again",
              .synopsis = "CONTRACT [OPTION]...",
              .about = "Make a contract that was revoked active again.\n",
              .options = contracts_allow_rows},
        .operand = "CONTRACT",
        .work = contracts_allow,
    },
    {
        .c = {.name = "contract bill",
              .summary = "who bills the usage of a contract, and by which plan",
              .synopsis = "CONTRACT [--plan PLAN --dimensions LIST | --by-machines] [OPTION]...",
              .about =
                  "Have the control plane bill the usage of a contract to a marketplace plan, from now on. "
                  "Without\n"
                  "options show how it is billed.\n",
              .options = contracts_bill_rows},
        .operand = "CONTRACT",
        .check = contracts_check_bill,
        .work = contracts_bill,
    },
    {
        .c = {.name = "contract await",
              .summary = "let a purchase from one subscription take a contract",
              .synopsis = "CONTRACT --subscription GUID [OPTION]...",
              .about =
                  "Let the purchase of a managed application from this Azure subscription take a contract "
                  "that was\n"
                  "agreed on before. Who knows the contract's id alone can neither pay for it nor end it.\n",
              .options = contracts_await_rows},
        .operand = "CONTRACT",
        .check = contracts_check_await,
        .work = contracts_await,
    },
};

static int contracts_main(int argc, char **argv)
{
    static const struct admin_group group = {"contract", "Contracts: which customer may use which asset.\n",
                                             contracts_commands, ARRAY_SIZE(contracts_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_contract = {
    .name = "contract",
    .summary = "contracts of customers: add, list, show, edit, revoke, allow, bill, await",
    .run = contracts_main};
