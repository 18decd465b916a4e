/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg upload: the command line and the report; publish/upload.h does the work. */
#include <inttypes.h>

#include "common/json.h"
#include "common/secret.h"
#include "provider/cli/interrupt.h"
#include "provider/cmd/rows.h"
#include "provider/publish/upload.h"
#include "provider/tbpkg.h"

struct upload_job {
    struct cli cli;
    struct asset_upload work;
};

static void upload_job_clear(struct upload_job *j)
{
    asset_upload_clear(&j->work);
}

#define TB_OPTION_TARGET struct upload_job
static const struct tb_option upload_options[] = {
    ROW_STORAGE_ACCOUNT(work.account),
    ROW_CONTAINER(work.container),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, work.asset_id,
              "name of the asset, as in the manifest"),
    TB_OPTION('e', "encrypted-file", "FILE", TB_OPTION_STRING, work.file, "the ciphertext"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.manifest_path, "its manifest"),
    TB_OPTION('f', "force", NULL, TB_OPTION_FLAG, work.force, "replace another file under this asset id"),
    TB_OPTION(0, "verify", NULL, TB_OPTION_FLAG, work.verify,
              "hash the whole file before the first byte is sent; without it the hash is taken on the way "
              "and checked before the commit"),
    ROW_BLOB_ENDPOINT(work.endpoint),
    ROW_CA_FILE(work.ca_file),
    TB_OPTION(0, "insecure-http", NULL, TB_OPTION_FLAG, work.insecure,
              "allow a plain http:// endpoint that is not loopback"),
    TB_OPTION(0, "block-bytes", "SIZE", TB_OPTION_SIZE, work.block_bytes, "size of a block, 64K to 256M [8M]",
              .min = BLOB_BLOCK_BYTES_MIN, .max = BLOB_BLOCK_BYTES_MAX),
    TB_OPTION(0, "concurrency", "N", TB_OPTION_UINT, work.concurrency, "blocks sent at once, 1 to 64 [16]",
              .min = 1, .max = BLOB_CONCURRENCY_MAX),
    TB_OPTION(0, "retries", "N", TB_OPTION_UINT, work.retries,
              "further attempts for each request, 0 to 20 [8]", .max = 20),
    TB_OPTION(0, "timeout", "SECONDS", TB_OPTION_UINT, work.timeout,
              "give a transfer up that moves nothing for so long [60]", .min = 1, .max = 3600),
    TB_OPTION('v', "verbose", NULL, TB_OPTION_FLAG, work.verbose, "say which credential is used"),
    ROWS_CREDENTIAL_FILES(work.credentials.connection_string_file, work.credentials.account_key_file,
                          work.credentials.sas_file),
    CLI_COMMON_ROWS,
};

static int upload_check_options(void *job)
{
    const struct upload_job *j = job;
    const struct asset_upload *w = &j->work;
    const struct cli *c = &j->cli;

    if (!blob_container_valid(w->container))
        return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'", w->container);
    if (cli_check_asset_id(c, w->asset_id) != CLI_OK)
        return CLI_USAGE;
    if (!w->file || !w->manifest_path)
        return cli_usage(c, "%s is missing", w->file ? "--manifest" : "--encrypted-file");
    return CLI_OK;
}

static cJSON *upload_object_json(const struct upload_job *j, const struct blob_object *o)
{
    _cleanup_free_ char *url = tb_strf("%s/%s", j->work.service.url, o->path);
    cJSON *d = cJSON_CreateObject();

    cJSON_AddStringToObject(d, "url", url ? url : "");
    tb_json_add_uint(d, "bytes", o->size);
    cJSON_AddStringToObject(d, "sha256", o->sha256);
    tb_json_add_uint(d, "bytes_sent", o->sent);
    tb_json_add_uint(d, "bytes_resumed", o->resumed);
    return d;
}

static int upload_print_summary(const struct upload_job *j)
{
    _cleanup_json_ cJSON *d = NULL;

    if (j->work.ct.sent + j->work.ct.resumed + j->work.mf.sent == 0)
        tbpkg_note(j->cli.quiet, "Everything is there already; nothing was sent.");
    else if (j->work.ct.resumed > 0)
        tbpkg_note(j->cli.quiet, "Resumed: %" PRIu64 " bytes were there already.", j->work.ct.resumed);
    if (!j->cli.json) {
        printf("%s/%s\n%s/%s\n", j->work.service.url, j->work.ct.path, j->work.service.url, j->work.mf.path);
        tbpkg_note(j->cli.quiet, "Next: tbpkg register --asset-id %s --manifest %s --blob-url %s/%s ...",
                   j->work.asset_id, j->work.manifest_path, j->work.service.url, j->work.container);
        return cli_flush_stdout();
    }
    d = cJSON_CreateObject();
    cJSON_AddStringToObject(d, "asset_id", j->work.asset_id);
    cJSON_AddItemToObject(d, "ciphertext", upload_object_json(j, &j->work.ct));
    cJSON_AddItemToObject(d, "manifest", upload_object_json(j, &j->work.mf));
    return cli_print_json(d);
}

static int upload_main(int argc, char **argv)
{
    _cleanup_(upload_job_clear) struct upload_job j = {.cli = {.command = &tbpkg_upload},
                                                       .work = ASSET_UPLOAD_INIT};
    int rc;

    j.work.cli = &j.cli;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, upload_check_options) != CLI_OK)
        return j.cli.rc;
    tb_secret_init();
    cli_interrupt_note("Interrupted; run the same command again to resume.");
    rc = asset_upload(&j.work);
    return rc == CLI_OK ? upload_print_summary(&j) : rc;
}

const struct tbpkg_command tbpkg_upload = {
    .name = "upload",
    .summary = "put an encrypted asset into Azure Blob storage",
    .synopsis = "--storage-account ACCOUNT --asset-id ID --encrypted-file FILE --manifest FILE\n"
                "                    [OPTION]...",
    .about =
        "Upload an encrypted asset to Azure Blob Storage as NAME/ID/model.tbenc and\n"
        "NAME/ID/model.manifest.json. Run it again to resume; what is there already is not sent again.\n",
    .options = upload_options,
    .tail = "Credentials, the first that is there: the files above;\n"
            "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,\n"
            "AZURE_ACCESS_TOKEN; a service principal in AZURE_TENANT_ID, AZURE_CLIENT_ID and\n"
            "AZURE_CLIENT_SECRET; the managed identity of the machine; 'az login'.\n"
            "The identity needs the role Storage Blob Data Contributor, a SAS sp=rcw on the container.\n",
    .run = upload_main,
};
