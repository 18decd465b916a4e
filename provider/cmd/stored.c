/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg ls, status, rm, abort: what of assets lies in a container, and whether something needs it. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "provider/azure/blob_list.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/table.h"
#include "provider/cmd/rows.h"
#include "provider/publish/inventory.h"
#include "provider/tbpkg.h"

struct stored_job {
    struct cli cli;
    struct asset_store store;
    struct remote remote;
    struct inventory inventory;
    const char *operand; /* FOLDER */
    bool yes, offline;
};

static void stored_job_clear(struct stored_job *j)
{
    inventory_clear(&j->inventory);
    remote_clear(&j->remote);
    store_clear(&j->store);
}

#define TB_OPTION_TARGET struct stored_job
#define ROWS_STORED                                                                                          \
    ROW_STORAGE_ACCOUNT(store.account), ROW_CONTAINER(store.container), ROW_BLOB_ENDPOINT(store.endpoint),   \
        ROWS_CREDENTIAL_FILES(store.credentials.connection_string_file, store.credentials.account_key_file,  \
                              store.credentials.sas_file),                                                   \
        TB_OPTION_HEADING_ROW("Control plane, to say what is registered:"),                                  \
        ROW_EDC_ENDPOINT(remote.endpoint), ROW_TOKEN_FILE(remote.token_file),                                \
        ROWS_CLIENT_CERT(remote.cert, remote.cert_key), ROW_CA_FILE(remote.ca_file),                         \
        ROW_INSECURE_HTTP(remote.insecure),                                                                  \
        TB_OPTION(0, "no-control-plane", NULL, TB_OPTION_FLAG, offline, "do not ask it"),                    \
        TB_OPTION_HEADING_ROW("Every command:"), CLI_COMMON_ROWS
#define ROW_YES TB_OPTION('y', "yes", NULL, TB_OPTION_FLAG, yes, "do not ask")

static const struct tb_option ls_options[] = {ROWS_STORED};
static const struct tb_option status_options[] = {ROWS_STORED};
static const struct tb_option rm_options[] = {ROW_YES, ROWS_STORED};
static const struct tb_option abort_options[] = {ROW_YES, ROWS_STORED};

static const struct table_column stored_columns[] = {
    {"FOLDER", "folder", TABLE_TEXT, NULL},
    {"STATE", "state", TABLE_TEXT, NULL},
    {"SIZE", "bytes", TABLE_BYTES, NULL},
    {"KEY", "key_id", TABLE_TEXT, NULL},
    {"VERSION", "version", TABLE_TEXT, NULL},
    {"CURRENT", "current", TABLE_TEXT, NULL},
    {"CONTRACTS", "contracts", TABLE_TEXT, NULL},
    {"STANDS ON", "base_version", TABLE_TEXT, NULL},
    {"AGE", "age", TABLE_TEXT, NULL},
};
static const struct table_column status_columns[] = {
    {"Folder", "folder", TABLE_TEXT, NULL},
    {"State", "state", TABLE_TEXT, NULL},
    {"Asset", "asset_id", TABLE_TEXT, NULL},
    {"Size", "bytes", TABLE_BYTES, NULL},
    {"Key", "key_id", TABLE_TEXT, NULL},
    {"SHA-256", "sha256_ciphertext", TABLE_TEXT, NULL},
    {"Registered", "registered", TABLE_TEXT, NULL},
    {"Version", "version", TABLE_TEXT, NULL},
    {"Current", "current", TABLE_TEXT, NULL},
    {"Contracts", "contracts", TABLE_TEXT, NULL},
    {"Stands on version", "base_version", TABLE_TEXT, NULL},
    {"Base of", "overlay", TABLE_TEXT, NULL},
    {"Uncommitted blocks", "uncommitted_blocks", TABLE_TEXT, NULL},
    {"Uncommitted", "uncommitted_bytes", TABLE_BYTES, NULL},
    {"Modified", "modified_at", TABLE_TEXT, NULL},
    {"Age", "age", TABLE_TEXT, NULL},
    {"URL", "url", TABLE_TEXT, NULL},
};

static int stored_check_options(void *job)
{
    struct stored_job *j = job;
    const struct cli *c = &j->cli;

    if (store_check_options(c, &j->store) != CLI_OK)
        return CLI_USAGE;
    j->offline |= !j->remote.endpoint;
    j->store.ca_file = j->remote.ca_file;
    j->store.insecure = j->remote.insecure;
    return j->offline ? CLI_OK : remote_check(&j->remote);
}

static int stored_take_operand(struct stored_job *j, bool wanted, int argc, char **argv)
{
    int n = argc - optind;

    if (!wanted)
        return n == 0 ? CLI_OK : cli_usage(&j->cli, "takes no argument: '%s'", argv[optind]);
    if (n != 1)
        return cli_usage(&j->cli, n == 0 ? "name a FOLDER; tbpkg ls lists them" : "name one FOLDER");
    j->operand = argv[optind];
    return store_check_folder(&j->cli, j->operand);
}

static int stored_open(struct stored_job *j)
{
    int rc = store_connect(&j->store);

    if (rc == CLI_OK && !j->offline)
        rc = remote_open(&j->remote, true);
    j->inventory.store = &j->store;
    j->inventory.remote = j->offline ? NULL : &j->remote;
    return rc == CLI_OK ? inventory_take(&j->inventory) : rc;
}

static int stored_not_there(const struct stored_job *j)
{
    tbpkg_failf(j->operand, "there is no such folder with an asset in container %s; tbpkg ls lists them",
                j->store.container);
    return CLI_NOT_FOUND;
}

/* As if it had come from elsewhere: numbers that are exact in JSON are text in our tree. */
static cJSON *stored_reread(const cJSON *o)
{
    char *text = cJSON_PrintUnformatted(o);
    cJSON *again = text ? cJSON_Parse(text) : NULL;

    cJSON_free(text);
    return again;
}

static int stored_ls(struct stored_job *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject(), *again = NULL;
    cJSON *rows = cJSON_AddArrayToObject(o, "assets");

    for (size_t i = 0; i < j->inventory.n; i++)
        cJSON_AddItemToArray(rows, inventory_show(&j->inventory, &j->inventory.v[i]));
    if (j->cli.json)
        return cli_print_json(o);
    if (j->inventory.n == 0)
        tbpkg_note(j->cli.quiet, "There are no assets in container %s.", j->store.container);
    if (j->offline && !cli_given(&j->cli, "no-control-plane"))
        tbpkg_note(j->cli.quiet, "What is registered is not shown: there is no --edc-endpoint.");
    again = stored_reread(rows);
    return table_print(again, stored_columns, ARRAY_SIZE(stored_columns));
}

static int stored_status(struct stored_job *j)
{
    const struct stored *s = inventory_find(&j->inventory, j->operand);
    _cleanup_json_ cJSON *o = s ? inventory_show(&j->inventory, s) : NULL, *again = NULL;

    if (!s)
        return stored_not_there(j);
    if (j->cli.json)
        return cli_print_json(o);
    again = stored_reread(o);
    return table_print_object(again, status_columns, ARRAY_SIZE(status_columns));
}

static int stored_confirm(const struct stored_job *j, const char *what)
{
    char answer[8];

    if (j->yes)
        return CLI_OK;
    if (!isatty(STDIN_FILENO))
        return cli_usage(&j->cli,
                         "standard input is not a terminal: use --yes to continue without a question");
    fprintf(stderr, "%s %s in %s; nothing brings it back. Go on? [y/N] ", what, j->operand,
            j->store.service.url);
    if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
        return tbpkg_fail(j->operand, "cancelled; nothing was done", NULL);
    return CLI_OK;
}

static int stored_report(const struct stored_job *j, const char *verb)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "folder", j->operand);
    cJSON_AddTrueToObject(o, verb);
    if (j->cli.json)
        return cli_print_json(o);
    tbpkg_note(j->cli.quiet, "%s: %s.", j->operand, verb);
    return CLI_OK;
}

static int stored_remove(const struct stored_job *j, const struct blob_entry *b)
{
    _cleanup_free_ char *path = b ? tb_strf("%s/%s", j->store.container, b->name) : NULL;

    if (!b)
        return CLI_OK;
    return path ? blob_remove(&j->store.client, path, b->etag) : tbpkg_fail_errno(j->operand, -ENOMEM);
}

/* The manifest goes first: whoever finds one finds a complete asset. */
static int stored_rm(struct stored_job *j)
{
    const struct stored *s = inventory_find(&j->inventory, j->operand);
    int rc;

    if (!s)
        return stored_not_there(j);
    if (s->uploading) {
        tbpkg_fail(j->operand, "is being uploaded", "wait for it, or let go of it: tbpkg abort");
        return CLI_REFUSED;
    }
    if (j->offline && !cli_given(&j->cli, "no-control-plane"))
        return cli_usage(&j->cli, "--edc-endpoint is missing: only the control plane says whether machines "
                                  "fetch it; or use --no-control-plane");
    rc = inventory_check_unneeded(&j->inventory, s);
    if (rc == CLI_OK)
        rc = stored_confirm(j, "This removes");
    if (rc == CLI_OK)
        rc = stored_remove(j, s->mf);
    if (rc == CLI_OK)
        rc = stored_remove(j, s->ct);
    return rc == CLI_OK ? stored_report(j, "removed") : rc;
}

static int stored_abort(struct stored_job *j)
{
    const struct stored *s = inventory_find(&j->inventory, j->operand);
    _cleanup_free_ char *path = s && s->ct ? tb_strf("%s/%s", j->store.container, s->ct->name) : NULL;
    int rc;

    if (!s)
        return stored_not_there(j);
    if (!s->uploading || !path) {
        tbpkg_fail(j->operand,
                   s->staged_blocks ? "is complete; the blocks that wait beside it go by themselves in a week"
                                    : "has no upload in progress",
                   NULL);
        return CLI_REFUSED;
    }
    rc = stored_confirm(j, "This lets go of the upload of");
    if (rc == CLI_OK)
        rc = blob_abort(&j->store.client, path);
    return rc == CLI_OK ? stored_report(j, "aborted") : rc;
}

static int stored_run(const struct tbpkg_command *command, bool operand, int (*work)(struct stored_job *),
                      int argc, char **argv)
{
    _cleanup_(stored_job_clear) struct stored_job j = {.cli = {.command = command},
                                                       .store = ASSET_STORE_INIT};
    int rc;

    tb_secret_init();
    j.store.cli = j.remote.cli = &j.cli;
    j.store.asset_id = "x"; /* no asset of its own */
    if (cli_parse(&j.cli, &j, argc, argv, CLI_ANY_WORDS, NULL, stored_check_options) != CLI_OK)
        return j.cli.rc;
    rc = stored_take_operand(&j, operand, argc, argv);
    if (rc == CLI_OK)
        rc = stored_open(&j);
    return rc == CLI_OK ? work(&j) : rc;
}

static int ls_main(int argc, char **argv)
{
    return stored_run(&tbpkg_ls, false, stored_ls, argc, argv);
}

static int status_main(int argc, char **argv)
{
    return stored_run(&tbpkg_status, true, stored_status, argc, argv);
}

static int rm_main(int argc, char **argv)
{
    return stored_run(&tbpkg_rm, true, stored_rm, argc, argv);
}

static int abort_main(int argc, char **argv)
{
    return stored_run(&tbpkg_abort, true, stored_abort, argc, argv);
}

#define CREDENTIALS_TAIL "Credentials are looked for as tbpkg upload --help says; reading needs sp=rl.\n"

const struct tbpkg_command tbpkg_ls = {
    .name = "ls",
    .summary = "list what of assets lies in Azure Blob storage",
    .synopsis = "--storage-account ACCOUNT [OPTION]...",
    .about = "List the assets in a container, uploads in progress too: key, size, age, and what the control\n"
             "plane has registered of them.\n",
    .tail = CREDENTIALS_TAIL,
    .options = ls_options,
    .run = ls_main,
};

const struct tbpkg_command tbpkg_status = {
    .name = "status",
    .summary = "show all that is known of one folder of tbpkg ls",
    .synopsis = "--storage-account ACCOUNT [OPTION]... FOLDER",
    .about = "Show one asset in a container: its manifest, an upload in progress, what is registered, what\n"
             "stands on it.\n",
    .tail = CREDENTIALS_TAIL,
    .options = status_options,
    .run = status_main,
};

const struct tbpkg_command tbpkg_rm = {
    .name = "rm",
    .summary = "remove a folder of tbpkg ls, unless something needs it",
    .synopsis = "--storage-account ACCOUNT [OPTION]... FOLDER",
    .about =
        "Remove ciphertext and manifest from a container. Refused while a version that is registered, or\n"
        "an overlay, needs them. The key is not touched.\n",
    .tail = CREDENTIALS_TAIL,
    .options = rm_options,
    .run = rm_main,
};

const struct tbpkg_command tbpkg_abort = {
    .name = "abort",
    .summary = "let go of an upload in progress",
    .synopsis = "--storage-account ACCOUNT [OPTION]... FOLDER",
    .about =
        "Let go of the blocks of an upload that was not completed, which are paid for until the service\n"
        "drops them after a week. A complete asset is not touched.\n",
    .tail = CREDENTIALS_TAIL,
    .options = abort_options,
    .run = abort_main,
};
