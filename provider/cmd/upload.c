/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg upload: the command line and the report; publish/upload.h does the work. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/settings.h"
#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/cmd/rows.h"
#include "provider/publish/upload.h"
#include "provider/tbpkg.h"

struct upload_job {
    struct cli cli;
    struct asset_upload work;
    char *asset_id; /* of the manifest */
};

static void upload_job_clear(struct upload_job *j)
{
    asset_upload_clear(&j->work);
    tb_freep(&j->asset_id);
}

#define TB_OPTION_TARGET struct upload_job
static const struct tb_option upload_options[] = {
    ROW_STORAGE_ACCOUNT(work.store.account),
    ROW_CONTAINER(work.store.container),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, work.store.asset_id,
              "name of the asset [that of the manifest]"),
    TB_OPTION('e', "encrypted-file", "FILE", TB_OPTION_STRING, work.file, "the ciphertext"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.manifest_path, "its manifest"),
    TB_OPTION('f', "force", NULL, TB_OPTION_FLAG, work.store.overwrite,
              "replace another file under this asset id, instead of storing this one beside it"),
    TB_OPTION(0, "verify", NULL, TB_OPTION_FLAG, work.verify,
              "hash the whole file before the first byte is sent; without it the hash is taken on the way "
              "and checked before the commit"),
    ROW_BLOB_ENDPOINT(work.store.endpoint),
    ROW_CA_FILE(work.store.ca_file),
    TB_OPTION(0, "insecure-http", NULL, TB_OPTION_FLAG, work.store.insecure,
              "allow a plain http:// endpoint that is not loopback"),
    ROWS_TRANSFER(work.store),
    TB_OPTION('v', "verbose", NULL, TB_OPTION_FLAG, work.store.verbose, "say which credential is used"),
    ROWS_CREDENTIAL_FILES(work.store.credentials.connection_string_file,
                          work.store.credentials.account_key_file, work.store.credentials.sas_file),
    CLI_COMMON_ROWS,
};

static int upload_check_options(void *job)
{
    struct upload_job *j = job;
    struct asset_upload *w = &j->work;
    const struct cli *c = &j->cli;
    int rc = store_check_options(c, &w->store);

    rc = cli_worse(rc, cli_need(c, w->file, "--encrypted-file"));
    rc = cli_worse(rc, cli_need(c, w->manifest_path, "--manifest"));
    return cli_worse(rc, asset_id_default(c, w->manifest_path, &w->store.asset_id, &j->asset_id));
}

/* Where tbpkg put the key of that manifest, when it named the file itself: beside the manifest, or here.
 * Heap, or NULL. */
static char *upload_find_key(const struct upload_job *j)
{
    const char *manifest = j->work.manifest_path, *slash = strrchr(manifest, '/');
    _cleanup_free_ char *beside = slash ? strndup(manifest, (size_t)(slash - manifest)) : NULL;
    const char *const dirs[] = {beside, "."};
    char id[ASSET_KEY_ID_HEX + 1];

    asset_key_id_in(manifest, id);
    for (size_t i = 0; *id && i < ARRAY_SIZE(dirs); i++) {
        _cleanup_free_ char *path = dirs[i] ? asset_key_name(dirs[i], j->work.store.asset_id, id) : NULL;

        if (path && access(path, R_OK) == 0)
            return TAKE_PTR(path);
    }
    return NULL;
}

/* "Next: COMMAND", to be pasted; what is not known is said before it. */
static void upload_tell_next(const struct upload_job *j)
{
    const struct asset_store *s = &j->work.store;
    _cleanup_free_ char *key = upload_find_key(j),
                        *url = tb_strf("%s/%s", s->service.url, s->aside ? s->ct.path : s->container);
    struct setting_value v;
    bool knows_plane = setting_get("controlplane.endpoint", &v), knows_key = key || getenv("TBPKG_KEY_FILE");
    const char *const words[][2] = {{"--asset-id", s->asset_id}, {"--manifest", j->work.manifest_path},
                                    {"--key-file", key},         {"--blob-url", url},
                                    {"--ca-file", s->ca_file},   {"--config", j->cli.config}};
    char line[1024];
    size_t n = 0;

    n += (size_t)snprintf(line, sizeof(line), "Next%s%s%s: tbpkg register",
                          knows_plane && knows_key ? "" : ", with ", knows_plane ? "" : "--edc-endpoint",
                          knows_key     ? ""
                          : knows_plane ? "--key-file"
                                        : " and --key-file");
    for (size_t i = 0; i < ARRAY_SIZE(words) && n < sizeof(line); i++) {
        _cleanup_free_ char *word = words[i][1] ? tb_text_shell_word(words[i][1]) : NULL;

        if (word)
            n += (size_t)snprintf(line + n, sizeof(line) - n, " %s %s", words[i][0], word);
    }
    tbpkg_note(j->cli.quiet, "%s", line);
}

static int upload_print_summary(const struct upload_job *j)
{
    const struct asset_store *s = &j->work.store;
    _cleanup_json_ cJSON *d = NULL;

    if (s->aside)
        tbpkg_note(j->cli.quiet,
                   "Another version of %s has the first place; this one lies aside, under its key's id.",
                   s->asset_id);
    if (s->ct.sent + s->ct.resumed + s->mf.sent == 0)
        tbpkg_note(j->cli.quiet, "Everything is there already; nothing was sent.");
    else if (s->ct.resumed > 0)
        tbpkg_note(j->cli.quiet, "Resumed: %" PRIu64 " bytes were there already.", s->ct.resumed);
    if (!j->cli.json) {
        printf("%s/%s\n%s/%s\n", s->service.url, s->ct.path, s->service.url, s->mf.path);
        upload_tell_next(j);
        return cli_flush_stdout();
    }
    d = cJSON_CreateObject();
    cJSON_AddStringToObject(d, "asset_id", s->asset_id);
    cJSON_AddItemToObject(d, "ciphertext", store_report(s, &s->ct));
    cJSON_AddItemToObject(d, "manifest", store_report(s, &s->mf));
    return cli_print_json(d);
}

static int upload_main(int argc, char **argv)
{
    _cleanup_(upload_job_clear) struct upload_job j = {.cli = {.command = &tbpkg_upload},
                                                       .work = ASSET_UPLOAD_INIT};
    int rc;

    j.work.store.cli = &j.cli;
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
    .about = "Upload an encrypted asset to Azure Blob Storage as NAME/ID/model.tbenc and\n"
             "NAME/ID/model.manifest.json; where another version has these names, in the folder\n"
             "NAME/ID/KEYID. Run it again to resume; what is there already is not sent again.\n",
    .options = upload_options,
    .tail = "Credentials, the first that is there: the files above;\n"
            "AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN,\n"
            "AZURE_ACCESS_TOKEN; a service principal in AZURE_TENANT_ID, AZURE_CLIENT_ID and\n"
            "AZURE_CLIENT_SECRET; the managed identity of the machine; 'az login'.\n"
            "The identity needs the role Storage Blob Data Contributor, a SAS sp=rcw on the container.\n",
    .run = upload_main,
};
