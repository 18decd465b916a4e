/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg rotate: the command line; publish/rotation.h does the work, publish/registration.h the rest. */
#include <errno.h>
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/cli/interrupt.h"
#include "provider/cmd/rows.h"
#include "provider/publish/registration.h"
#include "provider/publish/rotation.h"
#include "provider/tbpkg.h"

struct rotate_job {
    struct cli cli;
    struct asset_store from, to;
    struct remote remote;
    struct registration registration;
    struct cli_key_arg key_arg, none;
    struct rotation work;
    const char *asset; /* ID[@VERSION] */
    char *asset_id, *ciphertext_url, *manifest_url, *base;
    uint64_t version;
    bool promote;
};

static void rotate_job_clear(struct rotate_job *j)
{
    rotation_clear(&j->work);
    registration_clear(&j->registration);
    remote_clear(&j->remote);
    store_clear(&j->from);
    store_clear(&j->to);
    cli_key_arg_clear(&j->key_arg);
    (void)cli_key_hold(NULL);
    signer_forget();
    tb_freep(&j->asset_id);
    tb_freep(&j->ciphertext_url);
    tb_freep(&j->manifest_url);
    tb_freep(&j->base);
}

#define TB_OPTION_TARGET struct rotate_job
static const struct tb_option rotate_options[] = {
    TB_OPTION('a', "asset-id", "ID[@VERSION]", TB_OPTION_STRING, asset,
              "the asset, and which version of it [the current one]"),
    CLI_KEY_ROWS(key_arg),
    TB_OPTION(0, "key-out", "TARGET", TB_OPTION_STRING, work.key_out, ASSET_KEY_OUT_HELP),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.manifest_path,
              "write the new manifest here [ID-KEYID.manifest.json]"),
    ROWS_SIGN(work.sign),
    TB_OPTION(0, "promote", NULL, TB_OPTION_FLAG, promote,
              "make the new version current at once, for live contracts too"),
    TB_OPTION_HEADING_ROW("Storage; credentials are looked for as tbpkg upload --help says:"),
    ROW_STORAGE_ACCOUNT(to.account),
    ROW_CONTAINER(to.container),
    ROW_BLOB_ENDPOINT(to.endpoint),
    ROWS_TRANSFER(to),
    ROWS_CREDENTIAL_FILES(to.credentials.connection_string_file, to.credentials.account_key_file,
                          to.credentials.sas_file),
    TB_OPTION_HEADING_ROW("Control plane:"),
    ROW_EDC_ENDPOINT(remote.endpoint),
    ROWS_ACCESS(remote),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

static int rotate_check_options(void *job)
{
    struct rotate_job *j = job;
    const struct cli *c = &j->cli;
    const char *at = j->asset ? strrchr(j->asset, '@') : NULL;

    j->asset_id = j->asset ? strndup(j->asset, at ? (size_t)(at - j->asset) : strlen(j->asset)) : NULL;
    if (cli_check_asset_id(c, j->asset_id) != CLI_OK)
        return CLI_USAGE;
    if (at && tb_uint_parse(at + 1, 1, TB_JSON_INT_MAX, &j->version) < 0)
        return cli_usage(c, "--asset-id: a version is a number, as in %s@2, not '%s'", j->asset_id, at + 1);
    if (!cli_key_arg_given(&j->key_arg))
        return cli_usage(c, "no key: name that of the version by --key-file, or set TBPKG_KEY_FILE");
    if (!j->work.key_out || strcmp(j->work.key_out, "-") == 0)
        return cli_usage(c,
                         "--key-out is missing: a file, a directory or a recipient for the new key, which is "
                         "stored before the first byte is sent");
    if (key_out_check(c, j->work.key_out) != CLI_OK || store_check_options(c, &j->to) != CLI_OK)
        return CLI_USAGE;
    j->to.ca_file = j->remote.ca_file;
    j->to.insecure = j->remote.insecure;
    j->to.cli = j->from.cli = &j->cli;
    j->to.asset_id = j->asset_id;
    j->from = j->to; /* and a connection of its own */
    return remote_check(&j->remote);
}

/* Where the version lies. */
static int rotate_take_version(struct rotate_job *j, const cJSON *asset)
{
    char err[TB_JSON_ERR_MAX];
    const char *ct = NULL, *mf = NULL;
    const cJSON *v, *found = NULL;
    uint64_t n;

    if (!j->version)
        (void)tb_json_get_uint(asset, "current_version", TB_JSON_INT_MAX, &j->version, err);
    cJSON_ArrayForEach (v, tb_json_member(asset, "versions")) {
        if (tb_json_get_uint(v, "version", TB_JSON_INT_MAX, &n, err) == 0 && n == j->version)
            found = v;
    }
    if (!found || tb_json_get_string(found, "ciphertext_url", &ct, err) < 0 ||
        tb_json_get_string(found, "manifest_url", &mf, err) < 0) {
        tbpkg_failf(j->asset, "there is no such version; tbpkg asset show %s lists them", j->asset_id);
        return CLI_NOT_FOUND;
    }
    if (tb_json_get_uint(found, "base_version", TB_JSON_INT_MAX, &n, err) == 0)
        return tbpkg_failf(
            j->asset,
            "version %llu is an overlay; rotate version %llu, which it stands on, and publish the "
            "change on the new one: tbpkg publish --base",
            (unsigned long long)j->version, (unsigned long long)n);
    j->ciphertext_url = strdup(ct);
    j->manifest_url = strdup(mf);
    j->work.ciphertext_url = j->ciphertext_url;
    j->work.manifest_url = j->manifest_url;
    return j->ciphertext_url && j->manifest_url ? CLI_OK : tbpkg_fail_errno(j->asset, -ENOMEM);
}

static int rotate_find(struct rotate_job *j)
{
    _cleanup_free_ char *path = remote_path("assets", j->asset_id);
    _cleanup_json_ cJSON *asset = NULL;
    int rc = remote_open(&j->remote, true);

    if (rc == CLI_OK)
        rc = remote_get(&j->remote, path, &(struct remote_object){.kind = "asset", .name = j->asset_id},
                        &asset);
    return rc == CLI_OK ? rotate_take_version(j, asset) : rc;
}

static int rotate_register(struct rotate_job *j)
{
    const char *bases[1] = {j->base = tb_strf("%s/%s", j->to.service.url, j->to.ct.path)};
    struct registration *g = &j->registration;

    if (!j->base)
        return tbpkg_fail_errno(j->asset, -ENOMEM);
    g->cli = &j->cli;
    g->asset_id = j->asset_id;
    g->manifest_path = j->work.made_manifest;
    g->key_arg = &j->none; /* the one that is held */
    g->bases = bases;
    g->n_bases = 1;
    g->replace = j->promote;
    g->no_promote = !j->promote;
    g->remote = (struct remote){.cli = &j->cli,
                                .endpoint = j->remote.endpoint,
                                .token_file = j->remote.token_file,
                                .cert = j->remote.cert,
                                .cert_key = j->remote.cert_key,
                                .ca_file = j->remote.ca_file,
                                .insecure = j->remote.insecure};
    return remote_check(&g->remote) == CLI_OK ? registration_send(g) : CLI_FAILED;
}

static int rotate_all(struct rotate_job *j)
{
    int rc = rotate_find(j);

    if (rc == CLI_OK)
        rc = store_connect(&j->from);
    if (rc == CLI_OK)
        rc = store_connect(&j->to);
    j->from.client.retries = (unsigned)j->from.retries;
    if (rc != CLI_OK)
        return rc;
    cli_interrupt_note("Interrupted; nothing of the old version was touched. Run the same command again: it "
                       "begins anew under another key.");
    j->work.cli = &j->cli;
    j->work.asset_id = j->asset_id;
    j->work.key_arg = &j->key_arg;
    j->work.from = &j->from;
    j->work.to = &j->to;
    rc = rotation_run(&j->work);
    if (rc != CLI_OK)
        return rc;
    tbpkg_note(j->cli.quiet, "old:       %s@%llu; its key is needed as long as something serves it",
               j->asset_id, (unsigned long long)j->version);
    tbpkg_note(j->cli.quiet, "new key:   %s in %s (keep it: nothing else opens the new version)",
               j->work.key.id, j->work.key.path ? j->work.key.path : "-");
    tbpkg_note(j->cli.quiet, "stored as: %s/%s", j->to.service.url, j->to.ct.path);
    return rotate_register(j);
}

static int rotate_main(int argc, char **argv)
{
    _cleanup_(rotate_job_clear) struct rotate_job j = {.cli = {.command = &tbpkg_rotate},
                                                       .from = ASSET_STORE_INIT,
                                                       .to = ASSET_STORE_INIT,
                                                       .work = {.key = KEY_OUT_INIT}};

    tb_secret_init();
    j.remote.cli = &j.cli;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_NO_WORDS, NULL, rotate_check_options) != CLI_OK)
        return j.cli.rc;
    return rotate_all(&j);
}

const struct tbpkg_command tbpkg_rotate = {
    .name = "rotate",
    .summary = "make a new version of an asset under a new key",
    .synopsis = "--asset-id ID[@VERSION] --key-file FILE --key-out TARGET [OPTION]...",
    .about = "Fetch a version of an asset, open it, seal it under a new key, store and register it as a new\n"
             "version: all at once, without a copy here. The old version and its key stay as they are.\n"
             "Prints the control plane's answer, which is JSON with and without --json.\n",
    .options = rotate_options,
    .run = rotate_main,
};
