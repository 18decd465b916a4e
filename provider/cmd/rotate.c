/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg rotate: the command line; publish/pull.h reads the version, publish/stream.h makes the new
 * one, publish/registration.h makes it known. */
#include <errno.h>
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/asset/signer.h"
#include "provider/cli/interrupt.h"
#include "provider/cmd/rows.h"
#include "provider/publish/preflight.h"
#include "provider/publish/pull.h"
#include "provider/publish/registration.h"
#include "provider/tbpkg.h"

struct rotate_job {
    struct cli cli;
    struct asset_store from; /* beside that of work, as both are used at once */
    struct remote remote;
    struct registration registration;
    struct cli_key_arg key_arg, none;
    struct pull pull;
    struct asset_stream work;
    const char *asset, *provider_key; /* ID[@VERSION] */
    struct tb_minisign_keys trusted;
    char *asset_id, *made;
    uint64_t version;
    bool promote;
};

static void rotate_job_clear(struct rotate_job *j)
{
    asset_stream_clear(&j->work);
    pull_clear(&j->pull);
    registration_clear(&j->registration);
    remote_clear(&j->remote);
    store_clear(&j->from);
    cli_key_arg_clear(&j->key_arg);
    (void)cli_key_hold(NULL);
    signer_forget();
    tb_freep(&j->asset_id);
    tb_freep(&j->made);
}

#define TB_OPTION_TARGET struct rotate_job
static const struct tb_option rotate_options[] = {
    TB_OPTION('a', "asset-id", "ID[@VERSION]", TB_OPTION_STRING, asset,
              "the asset, and which version of it [the current one]"),
    CLI_KEY_ROWS(key_arg),
    TB_OPTION(0, "key-out", "TARGET", TB_OPTION_STRING, work.seal.key_out, ASSET_KEY_OUT_HELP),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.seal.manifest,
              "write the new manifest here [ID-KEYID.manifest.json]"),
    TB_OPTION(0, "new-key-file", "FILE", TB_OPTION_STRING, work.key_file,
              "the key of a run that was interrupted, where --key-out is a recipient or its file was moved"),
    ROWS_SIGN(work.seal.sign),
    ROW_PROVIDER_KEY_OF_MANIFEST(provider_key),
    TB_OPTION(0, "promote", NULL, TB_OPTION_FLAG, promote,
              "make the new version current at once, for live contracts too"),
    TB_OPTION_HEADING_ROW("Storage; credentials are looked for as tbpkg upload --help says:"),
    ROW_STORAGE_ACCOUNT(work.store.account),
    ROW_CONTAINER(work.store.container),
    ROW_BLOB_ENDPOINT(work.store.endpoint),
    ROWS_TRANSFER(work.store),
    ROWS_CREDENTIAL_FILES(work.store.credentials.connection_string_file,
                          work.store.credentials.account_key_file, work.store.credentials.sas_file),
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
    if (!j->work.seal.key_out || strcmp(j->work.seal.key_out, "-") == 0)
        return cli_usage(c,
                         "--key-out is missing: a file, a directory or a recipient for the new key, which is "
                         "stored before the first byte is sent");
    if (key_out_check(c, j->work.seal.key_out) != CLI_OK || store_check_options(c, &j->work.store) != CLI_OK)
        return CLI_USAGE;
    j->work.store.ca_file = j->remote.ca_file;
    j->work.store.insecure = j->remote.insecure;
    j->work.store.cli = j->work.seal.cli = j->pull.cli = &j->cli;
    j->work.store.asset_id = j->work.seal.asset_id = j->pull.asset_id = j->asset_id;
    j->from = j->work.store;
    return remote_check(&j->remote);
}

/* -- the version ------------------------------------------------------------------------------- */

static const cJSON *rotate_version(const cJSON *asset, uint64_t version)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    uint64_t n;

    cJSON_ArrayForEach (v, tb_json_member(asset, "versions")) {
        if (tb_json_get_uint(v, "version", TB_JSON_INT_MAX, &n, err) == 0 && n == version)
            return v;
    }
    return NULL;
}

/* The one that a run before was about: the current one may be another by now. */
static void rotate_take_begun(struct rotate_job *j, const cJSON *asset)
{
    _cleanup_free_ char *path = asset_stream_journal(j->work.seal.manifest, j->asset_id), *url = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *ct;
    const cJSON *v;

    if (path)
        journal_peek_origin(path, j->asset_id, &url);
    cJSON_ArrayForEach (v, tb_json_member(asset, "versions")) {
        if (url && tb_json_get_string(v, "ciphertext_url", &ct, err) == 0 && strcmp(ct, url) == 0 &&
            tb_json_get_uint(v, "version", TB_JSON_INT_MAX, &j->version, err) == 0)
            tbpkg_note(j->cli.quiet, "Going on with version %llu, as %s says.",
                       (unsigned long long)j->version, path);
    }
}

static int rotate_take_part(const struct rotate_job *j, const cJSON *v, struct pull_part *t)
{
    char err[TB_JSON_ERR_MAX];
    const char *ct = NULL, *mf = NULL, *sha256 = "";

    if (!v || tb_json_get_string(v, "ciphertext_url", &ct, err) < 0 ||
        tb_json_get_string(v, "manifest_url", &mf, err) < 0) {
        tbpkg_failf(j->asset, "there is no such version; tbpkg asset show %s lists them", j->asset_id);
        return CLI_NOT_FOUND;
    }
    (void)tb_json_get_string(v, "manifest_sha256", &sha256, err);
    snprintf(t->manifest_sha256, sizeof(t->manifest_sha256), "%s", sha256);
    t->ciphertext_url = strdup(ct);
    t->manifest_url = strdup(mf);
    return t->ciphertext_url && t->manifest_url ? CLI_OK : tbpkg_fail_errno(j->asset, -ENOMEM);
}

/* Where the version lies, and what it stands on. */
static int rotate_take_version(struct rotate_job *j, const cJSON *asset)
{
    char err[TB_JSON_ERR_MAX];
    const cJSON *v;
    uint64_t under;
    int rc;

    if (!j->version)
        rotate_take_begun(j, asset);
    if (!j->version)
        (void)tb_json_get_uint(asset, "current_version", TB_JSON_INT_MAX, &j->version, err);
    v = rotate_version(asset, j->version);
    rc = rotate_take_part(j, v, &j->pull.own);
    if (rc != CLI_OK || tb_json_get_uint(v, "base_version", TB_JSON_INT_MAX, &under, err) < 0)
        return rc;
    tbpkg_note(j->cli.quiet,
               "Version %llu is an overlay on version %llu and has its key: the new version will have all "
               "files of both.",
               (unsigned long long)j->version, (unsigned long long)under);
    return rotate_take_part(j, rotate_version(asset, under), &j->pull.base);
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

/* Of one's own, and connected to nothing. */
static struct remote rotate_remote(const struct rotate_job *j)
{
    return (struct remote){.cli = &j->cli,
                           .endpoint = j->remote.endpoint,
                           .token_file = j->remote.token_file,
                           .cert = j->remote.cert,
                           .cert_key = j->remote.cert_key,
                           .ca_file = j->remote.ca_file,
                           .insecure = j->remote.insecure};
}

/* May it be stored and registered, once all of it was sent? */
static int rotate_look_ahead(struct rotate_job *j)
{
    _cleanup_preflight_ struct preflight p = PREFLIGHT_INIT;
    int rc;

    p.cli = &j->cli;
    p.replace = j->promote;
    p.store = j->work.store;
    p.remote = rotate_remote(j);
    rc = remote_check(&p.remote);
    if (rc != CLI_OK)
        return rc;
    preflight_storage(&p);
    preflight_control_plane(&p);
    return checklist_report(&p.list);
}

static int rotate_open(struct rotate_job *j)
{
    struct asset_seal *w = &j->work.seal;
    int rc = store_connect(&j->from);

    j->from.client.retries = (unsigned)j->from.retries;
    if (rc == CLI_OK && j->provider_key) {
        rc = provider_keys_read(j->provider_key, &j->trusted);
        j->pull.trusted = &j->trusted;
    }
    j->pull.from = &j->from;
    j->pull.key_arg = &j->key_arg;
    if (rc == CLI_OK)
        rc = pull_open(&j->pull);
    if (rc != CLI_OK)
        return rc;
    if (j->pull.own.is_signed && !w->sign.key_file)
        tbpkg_warn(
            "version %llu is signed, and the new one will not be: machines that pin the provider's key "
            "refuse it; name the key by --sign-key",
            (unsigned long long)j->version);
    w->in = j->pull.own.path;
    w->chunk_bytes = j->pull.own.manifest->chunk_bytes;
    w->no_finetune = !j->pull.own.manifest->allow_finetune;
    j->work.origin = &j->pull.origin;
    return CLI_OK;
}

/* -- the new one ------------------------------------------------------------------------------- */

static int rotate_register(struct rotate_job *j)
{
    const struct asset_store *s = &j->work.store;
    const char *bases[1] = {j->made = tb_strf("%s/%s", s->service.url, s->ct.path)};
    struct registration *g = &j->registration;

    if (!j->made)
        return tbpkg_fail_errno(j->asset, -ENOMEM);
    g->cli = &j->cli;
    g->asset_id = j->asset_id;
    g->manifest_path = j->work.seal.manifest_path;
    g->key_arg = &j->none; /* the one that is held */
    g->bases = bases;
    g->n_bases = 1;
    g->replace = j->promote;
    g->no_promote = !j->promote;
    g->remote = rotate_remote(j);
    return remote_check(&g->remote) == CLI_OK ? registration_send(g) : CLI_FAILED;
}

static int rotate_all(struct rotate_job *j)
{
    const struct key_out *key = &j->work.seal.key;
    int rc = rotate_look_ahead(j);

    if (rc == CLI_OK)
        rc = rotate_find(j);
    if (rc == CLI_OK)
        rc = rotate_open(j);
    if (rc != CLI_OK)
        return rc;
    cli_interrupt_note("Interrupted; nothing of the old version was touched. Run the same command again to "
                       "continue.");
    rc = asset_stream(&j->work);
    if (rc != CLI_OK)
        return rc;
    tbpkg_note(j->cli.quiet, "old:       %s@%llu; its key is needed as long as something serves it",
               j->asset_id, (unsigned long long)j->version);
    tbpkg_note(j->cli.quiet, "new key:   %s in %s (keep it: nothing else opens the new version)", key->id,
               key->path);
    tbpkg_note(j->cli.quiet, "stored as: %s/%s", j->work.store.service.url, j->work.store.ct.path);
    rc = rotate_register(j);
    if (rc == CLI_OK)
        asset_stream_done(&j->work);
    return rc;
}

static int rotate_main(int argc, char **argv)
{
    _cleanup_(rotate_job_clear) struct rotate_job j = {.cli = {.command = &tbpkg_rotate},
                                                       .from = ASSET_STORE_INIT,
                                                       .pull = PULL_INIT,
                                                       .work = ASSET_STREAM_INIT};

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
             "Of an overlay the new version has all files, those of the version that it stands on too.\n"
             "Run the same command again after an interruption: what was sent is not sent again.\n"
             "Prints the control plane's answer, which is JSON with and without --json.\n",
    .options = rotate_options,
    .run = rotate_main,
};
