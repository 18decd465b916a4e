/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg register: the command line; publish/registration.h does the work. */
#include <errno.h>
#include <string.h>

#include "common/io.h"
#include "provider/azure/blob.h"
#include "provider/asset/asset.h"
#include "provider/cmd/rows.h"
#include "provider/publish/registration.h"
#include "provider/publish/store.h"
#include "provider/tbpkg.h"

struct register_job {
    struct cli cli;
    struct tb_option_list blob_urls;
    const char *account, *container, *endpoint;
    struct cli_key_arg key_arg;
    struct registration work;
    char *bases[REGISTRATION_BASES_MAX]; /* what work has of it */
    char *asset_id;                      /* of the manifest */
};

static void register_job_clear(struct register_job *j)
{
    registration_clear(&j->work);
    cli_key_arg_clear(&j->key_arg);
    tb_option_list_clear(&j->blob_urls);
    for (size_t i = 0; i < j->work.n_bases; i++)
        tb_freep(&j->bases[i]);
    tb_freep(&j->asset_id);
}

#define TB_OPTION_TARGET struct register_job
static const struct tb_option register_options[] = {
    ROW_EDC_ENDPOINT(work.remote.endpoint),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, work.asset_id,
              "name of the asset [that of the manifest]"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.manifest_path, "the asset's manifest"),
    CLI_KEY_ROWS(key_arg),
    TB_OPTION(
        0, "blob-url", "URL", TB_OPTION_LIST, blob_urls,
        "URL of the container; the asset lies at URL/FOLDER/model.tbenc; may be repeated, for copies in "
        "other accounts"),
    TB_OPTION('s', "storage-account", "ACCOUNT", TB_OPTION_STRING, account,
              "the same as --blob-url=https://ACCOUNT.blob.core.windows.net/NAME",
              .setting = "azure.storage_account"),
    ROW_CONTAINER(container),
    ROW_BLOB_ENDPOINT(endpoint),
    ROW_REPLACE(work.replace),
    TB_OPTION(0, "no-promote", NULL, TB_OPTION_FLAG, work.no_promote,
              "keep a new version beside the current one until tbpkg asset promote"),
    ROWS_ACCESS(work.remote),
    CLI_COMMON_ROWS,
};

static int register_check_urls(struct register_job *j)
{
    const struct cli *c = &j->cli;

    if (j->blob_urls.n > REGISTRATION_BASES_MAX)
        return cli_usage(c, "there are more than %d --blob-url", REGISTRATION_BASES_MAX);
    for (size_t i = 0; i < j->blob_urls.n; i++) {
        const char *url = j->blob_urls.v[i];
        size_t n = strlen(url);

        if (remote_check_url(c, j->work.remote.insecure, "--blob-url", url) != CLI_OK)
            return CLI_USAGE;
        while (n > 0 && url[n - 1] == '/')
            n--;
        j->bases[i] = tb_strf("%.*s", (int)n, url);
        if (!j->bases[i])
            return tbpkg_fail_errno("tbpkg register", -ENOMEM);
        j->work.n_bases = i + 1;
    }
    return CLI_OK;
}

static int register_check_place(struct register_job *j)
{
    _cleanup_blob_service_ struct blob_service service = {0};
    const struct cli *c = &j->cli;
    char err[BLOB_ERR_MAX];

    j->work.bases = (const char *const *)j->bases;
    if (j->blob_urls.n > 0) {
        if (j->account && cli_given(c, "storage-account"))
            return cli_usage(c, "--blob-url and --storage-account exclude each other");
        return register_check_urls(j);
    }
    if (!j->account)
        return cli_usage(c, "--blob-url or --storage-account (or AZURE_STORAGE_ACCOUNT) is missing");
    if (!blob_account_valid(j->account))
        return cli_usage(c, "--storage-account: 3 to 24 of a-z and 0-9, not '%s'", j->account);
    if (!blob_container_valid(j->container))
        return cli_usage(c, "--container: 3 to 63 of a-z, 0-9 and single '-' inside, not '%s'", j->container);
    if (blob_service_init(j->account, j->endpoint, j->work.remote.insecure, &service, err) < 0)
        return cli_usage(c, "%s", err);
    j->bases[j->work.n_bases++] = tb_strf("%s/%s", service.url, j->container);
    return j->bases[0] ? CLI_OK : tbpkg_fail_errno("tbpkg register", -ENOMEM);
}

static int register_check_options(void *job)
{
    struct register_job *j = job;
    const struct cli *c = &j->cli;

    int rc = remote_check(&j->work.remote);

    rc = cli_worse(rc, cli_need(c, j->work.manifest_path, "--manifest"));
    rc = cli_worse(rc, asset_id_default(c, j->work.manifest_path, &j->work.asset_id, &j->asset_id));
    if (!cli_key_arg_given(&j->key_arg))
        rc = cli_usage(c, "no key: give --key-file or set TBPKG_KEY_FILE");
    return cli_worse(rc, register_check_place(j));
}

static int register_main(int argc, char **argv)
{
    _cleanup_(register_job_clear) struct register_job j = {.cli = {.command = &tbpkg_register},
                                                           .container = "models"};

    tb_secret_init();
    j.work.cli = j.work.remote.cli = &j.cli;
    j.work.key_arg = &j.key_arg;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, register_check_options) != CLI_OK)
        return j.cli.rc;
    return registration_send(&j.work);
}

const struct tbpkg_command tbpkg_register = {
    .name = "register",
    .summary = "tell the control plane about an asset and its key",
    .synopsis =
        "--edc-endpoint URL --asset-id ID --manifest FILE --key-file FILE\n"
        "                      (--blob-url URL | --storage-account ACCOUNT --container NAME) [OPTION]...",
    .about = "Register an uploaded asset and its decryption key with the control plane. Prints its answer,\n"
             "which is JSON with and without --json.\n",
    .options = register_options,
    .run = register_main,
};
