/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg asset: what is registered at a control plane, and which version is current. */
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "common/io.h"
#include "provider/cmd/admin.h"
#include "provider/tbpkg.h"

#define TB_OPTION_TARGET struct admin_job
static const struct tb_option assets_list_rows[] = {ROWS_REMOTE};
static const struct tb_option assets_show_rows[] = {ROWS_REMOTE};
static const struct tb_option assets_promote_rows[] = {ROWS_REMOTE_CHANGE};
static const struct tb_option assets_delete_rows[] = {
    TB_OPTION('y', "yes", NULL, TB_OPTION_FLAG, yes, "do not ask"),
    ROWS_REMOTE_CHANGE,
};

static const struct table_column assets_list_columns[] = {
    {"ASSET", "asset_id", TABLE_TEXT, NULL},
    {"CURRENT", "version", TABLE_COUNT, NULL},
    {"PLAINTEXT", "plaintext_bytes", TABLE_BYTES, NULL},
    {"UPDATED", "updated_at", TABLE_TEXT, NULL},
};
static const struct table_column assets_version_columns[] = {
    {"VERSION", "version", TABLE_COUNT, NULL},
    {"CURRENT", "current", TABLE_TEXT, NULL},
    {"PLAINTEXT", "plaintext_bytes", TABLE_BYTES, NULL},
    {"KEY", "key_id", TABLE_TEXT, NULL},
    {"STANDS ON", "base_version", TABLE_TEXT, NULL},
    {"REGISTERED", "registered_at", TABLE_TEXT, NULL},
    {"COPIES", "copies", TABLE_WORDS, NULL},
};

static int assets_check_show(struct admin_job *j)
{
    if (j->version)
        return cli_usage(&j->cli, "all versions are shown: name the asset without '@%" PRIu64 "'",
                         j->version);
    return CLI_OK;
}

static int assets_check_promote(struct admin_job *j)
{
    if (!j->version)
        return cli_usage(&j->cli, "name the version behind '@': %s@2; tbpkg asset show %s lists them",
                         j->asset, j->asset);
    return CLI_OK;
}

static int assets_check_delete(struct admin_job *j)
{
    if (!j->yes && !isatty(STDIN_FILENO))
        return cli_usage(&j->cli,
                         "standard input is not a terminal: use --yes to continue without a question");
    return CLI_OK;
}

static int assets_list(struct admin_job *j)
{
    return admin_list(j, "assets", "assets", assets_list_columns, ARRAY_SIZE(assets_list_columns));
}

static int assets_print(const struct admin_job *j, const cJSON *asset)
{
    if (j->cli.json)
        return cli_print_json(asset);
    tbpkg_note(j->cli.quiet,
               "%s: %" PRIu64 " live contracts follow its current version, which is %" PRIu64 ".",
               admin_text(asset, "asset_id"), admin_number(asset, "live_contracts"),
               admin_number(asset, "current_version"));
    return table_print(tb_json_member(asset, "versions"), assets_version_columns,
                       ARRAY_SIZE(assets_version_columns));
}

static int assets_show(struct admin_job *j)
{
    const struct remote_object object = {"asset", j->asset, NULL};
    _cleanup_free_ char *path = remote_path("assets", j->asset);
    _cleanup_json_ cJSON *asset = NULL;
    int rc = remote_get(&j->remote, path, &object, &asset);

    return rc == CLI_OK ? assets_print(j, asset) : rc;
}

static int assets_promote(struct admin_job *j)
{
    const struct remote_object object = {"asset", j->asset, NULL};
    _cleanup_free_ char *path = remote_path("assets", j->asset, "promote");
    _cleanup_json_ cJSON *body = cJSON_CreateObject(), *asset = NULL;
    int rc;

    tb_json_add_uint(body, "version", j->version);
    rc = remote_change(&j->remote, "POST", path, body, &object, &asset);
    return rc == CLI_OK ? assets_print(j, asset) : rc;
}

static int assets_confirm(const struct admin_job *j)
{
    char answer[8];

    if (j->yes)
        return CLI_OK;
    fprintf(stderr, "The control plane forgets %s and its keys; nothing brings them back. Go on? [y/N] ",
            j->operand);
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
        return tbpkg_fail(j->operand, "cancelled; nothing was done", NULL);
    return CLI_OK;
}

static int assets_delete(struct admin_job *j)
{
    const struct remote_object object = {"asset", j->asset, NULL};
    _cleanup_json_ cJSON *asset = NULL;
    _cleanup_free_ char *path = NULL;
    char number[24];
    int rc = assets_confirm(j);

    if (rc != CLI_OK)
        return rc;
    snprintf(number, sizeof(number), "%" PRIu64, j->version);
    path = j->version ? remote_path("assets", j->asset, "versions", number) : remote_path("assets", j->asset);
    rc = remote_change(&j->remote, "DELETE", path, NULL, &object, &asset);
    if (rc != CLI_OK)
        return rc;
    return admin_print_done(
        j, asset, "%s is deleted at the control plane; its blobs are still in the storage.", j->operand);
}

static const struct admin_command assets_commands[] = {
    {
        .c = {.name = "asset list",
              .summary = "list registered assets",
              .synopsis = "[OPTION]...",
              .about = "List the assets that are registered, each with its current version.\n",
              .options = assets_list_rows},
        .work = assets_list,
    },
    {
        .c = {.name = "asset show",
              .summary = "show the versions of an asset",
              .synopsis = "ASSET [OPTION]...",
              .about = "Show an asset and its versions, the newest first. KEY tells keys apart and says "
                       "nothing of them.\n",
              .options = assets_show_rows},
        .operand = "ASSET",
        .check = assets_check_show,
        .work = assets_show,
    },
    {
        .c = {.name = "asset promote",
              .summary = "make a version current, or an older one again",
              .synopsis = "ASSET@VERSION [OPTION]...",
              .about = "Make a version the current one. Machines of contracts that follow the current "
                       "version learn it at\n"
                       "their next renewal and go on serving meanwhile. Promoting an older version is a "
                       "rollback.\n",
              .options = assets_promote_rows},
        .operand = "ASSET",
        .check = assets_check_promote,
        .work = assets_promote,
    },
    {
        .c = {.name = "asset delete",
              .summary = "forget an asset or a version, and its key",
              .synopsis = "ASSET[@VERSION] [OPTION]...",
              .about = "Have the control plane forget an asset, or one version of it, with its key. Refused "
                       "while a\n"
                       "contract names it. The blobs stay in the storage.\n",
              .options = assets_delete_rows},
        .operand = "ASSET",
        .check = assets_check_delete,
        .work = assets_delete,
    },
};

static int assets_main(int argc, char **argv)
{
    static const struct admin_group group = {
        "asset", "Assets that are registered at a control plane, and their versions.\n", assets_commands,
        ARRAY_SIZE(assets_commands), NULL};

    return admin_run_group(&group, argc, argv);
}

const struct tbpkg_command tbpkg_asset = {
    .name = "asset", .summary = "registered assets: list, show, promote, delete", .run = assets_main};
