/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg verify: says not only "ok" but what was checked, because without the key it cannot be everything. */
#include <errno.h>
#include <string.h>

#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "common/json.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"
#include "common/units.h"
#include "provider/cli/key_arg.h"

struct verify_job {
    struct cli cli;
    const char *in, *manifest, *base;
    struct cli_key_arg key_arg;
    uint64_t threads;
    const char *provider_key;
    struct tb_minisign_keys trusted;
    unsigned flags;
    bool with_key;
    struct tb_key key;
    struct asset asset, under; /* the latter of base */
};

static void verify_job_clear(struct verify_job *j)
{
    cli_key_arg_clear(&j->key_arg);
    tb_key_erase(&j->key);
    asset_clear(&j->asset);
    asset_clear(&j->under);
}

#define TB_OPTION_TARGET struct verify_job
static const struct tb_option verify_options[] = {
    ROW_CIPHERTEXT(in),
    ROW_MANIFEST(manifest),
    CLI_KEY_ROWS(key_arg),
    ROW_BASE_FILE(base),
    ROW_PROVIDER_KEY_OF_MANIFEST(provider_key),
    ROW_THREADS(threads),
    ROW_LENIENT(flags),
    CLI_COMMON_ROWS,
};

static int verify_check_options(void *job)
{
    const struct verify_job *j = job;

    return cli_check_inputs(&j->cli, j->in, j->manifest, &j->key_arg);
}

/* -- what is checked --------------------------------------------------------------------------- */

struct check {
    const char *name, *text;
    enum { NEEDS_NOTHING, NEEDS_KEY, NEEDS_PROVIDER, NEEDS_BASE } needs;
    bool (*applies)(const struct tbenc_manifest *m);
};

static bool verify_has_tags(const struct tbenc_manifest *m)
{
    return m->has_tags_sha256;
}

static bool verify_has_files(const struct tbenc_manifest *m)
{
    return m->files;
}

static bool verify_has_base(const struct tbenc_manifest *m)
{
    return m->base;
}

static const struct check checks[] = {
    {"manifest", "manifest is well formed", NEEDS_NOTHING, NULL},
    {"signature", "signature of the provider", NEEDS_PROVIDER, NULL},
    {"header", "header is as the manifest says", NEEDS_NOTHING, NULL},
    {"records", "number and lengths of the records", NEEDS_NOTHING, NULL},
    {"sha256_ciphertext", "SHA-256 of the whole file", NEEDS_NOTHING, NULL},
    {"tags", "tag of every chunk", NEEDS_KEY, NULL},
    {"tags_sha256", "SHA-256 over all tags in order", NEEDS_KEY, verify_has_tags},
    {"files", "SHA-256 of every file of the table", NEEDS_KEY, verify_has_files},
    {"base", "all of it for what the overlay stands on, and that it is that", NEEDS_BASE, verify_has_base},
};

/* The last is for overlays. */
static size_t verify_n_checks(const struct verify_job *j)
{
    return ARRAY_SIZE(checks) - !j->asset.manifest->base;
}

static bool verify_is_checked(const struct verify_job *j, const struct check *c)
{
    return (c->needs != NEEDS_KEY || j->with_key) && (c->needs != NEEDS_PROVIDER || j->provider_key) &&
           (c->needs != NEEDS_BASE || j->under.manifest) && (!c->applies || c->applies(j->asset.manifest));
}

static const char *verify_why_not(const struct verify_job *j, const struct check *c)
{
    if (c->applies && !c->applies(j->asset.manifest))
        return "the manifest has none";
    if (c->needs == NEEDS_BASE)
        return "needs --base";
    if (c->needs != NEEDS_PROVIDER)
        return "needs the key";
    return j->asset.signature.present ? "needs --provider-key" : "the manifest is not signed";
}

static void verify_report_text(const struct verify_job *j)
{
    printf("%s: OK\n", j->asset.path);
    for (size_t i = 0; i < verify_n_checks(j); i++) {
        if (verify_is_checked(j, &checks[i]))
            printf("  checked      %s\n", checks[i].text);
        else
            printf("  not checked  %s (%s)\n", checks[i].text, verify_why_not(j, &checks[i]));
    }
}

static int verify_report_json(const struct verify_job *j, const struct tbenc_error *e)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    cJSON *yes, *no;

    cJSON_AddBoolToObject(o, "ok", !e);
    cJSON_AddStringToObject(o, "file", j->asset.path);
    cJSON_AddStringToObject(o, "manifest", j->asset.manifest_path);
    cJSON_AddStringToObject(o, "asset_id", j->asset.manifest->asset_id);
    if (e)
        cJSON_AddStringToObject(o, "error", e->message);
    if (e && e->chunk != TBENC_NO_CHUNK)
        tb_json_add_uint(o, "chunk", e->chunk);
    if (e)
        return cli_print_json(o);
    yes = cJSON_AddArrayToObject(o, "checked");
    no = cJSON_AddObjectToObject(o, "not_checked");
    for (size_t i = 0; i < verify_n_checks(j); i++) {
        if (verify_is_checked(j, &checks[i]))
            cJSON_AddItemToArray(yes, cJSON_CreateString(checks[i].name));
        else
            cJSON_AddStringToObject(no, checks[i].name, verify_why_not(j, &checks[i]));
    }
    return cli_print_json(o);
}

static int verify_one(struct verify_job *j, const struct asset *a, const char *verb, struct tbenc_error *e)
{
    struct cli_progress progress = cli_progress_start(j->cli.quiet, verb, a->manifest->plaintext_bytes);
    struct tbenc_open_params p = {
        .manifest = a->manifest,
        .key = j->with_key ? j->key.b : NULL,
        .threads = (unsigned)j->threads,
        .flags = j->flags | TBENC_CHECK_SHA256,
        .progress = cli_progress,
        .progress_ctx = &progress,
    };
    int r = tbenc_verify(&p, a->fd, e);

    if (r == 0)
        cli_progress_finish(&progress, progress.total);
    return r;
}

static int verify_asset(struct verify_job *j)
{
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    const struct asset *a = &j->asset;
    int r = verify_one(j, a, "Verifying", &e);

    if (r == 0 && j->under.manifest) {
        a = &j->under;
        r = verify_one(j, a, "Verifying the base", &e);
    }
    if (r < 0) {
        if (j->cli.json)
            (void)verify_report_json(j, &e);
        return asset_fail(strcmp(a->path, "-") == 0 ? "ciphertext on standard input" : a->path, r, &e);
    }
    if (j->cli.json)
        return verify_report_json(j, NULL);
    if (!j->cli.quiet)
        verify_report_text(j);
    return CLI_OK;
}

static int verify_main(int argc, char **argv)
{
    _cleanup_(verify_job_clear) struct verify_job j = {
        .cli = {.command = &tbpkg_verify}, .asset = ASSET_INIT, .under = ASSET_INIT};
    int rc = CLI_OK;

    if (cli_parse(&j.cli, &j, argc, argv, CLI_ONE_INPUT, &j.in, verify_check_options) != CLI_OK)
        return j.cli.rc;
    j.with_key = cli_key_arg_given(&j.key_arg);
    if (j.with_key)
        rc = cli_key_arg_read(&j.cli, &j.key_arg, &j.key);
    if (rc == CLI_OK && j.provider_key) {
        rc = provider_keys_read(j.provider_key, &j.trusted);
        j.asset.trusted = &j.trusted;
    }
    if (rc == CLI_OK)
        rc = asset_open(j.in, j.manifest, j.flags | TBENC_OVERLAY, &j.asset);
    if (rc == CLI_OK && j.with_key)
        rc = asset_key_check(j.asset.manifest, &j.key, cli_key_arg_name(&j.key_arg));
    if (rc == CLI_OK && j.base && !j.asset.manifest->base)
        return tbpkg_fail(j.asset.manifest_path, "is no overlay's", "leave --base out");
    if (rc == CLI_OK && j.base)
        rc = asset_open_base(&j.asset, j.base, &j.under);
    return rc == CLI_OK ? verify_asset(&j) : rc;
}

const struct tbpkg_command tbpkg_verify = {
    .name = "verify",
    .summary = "check a .tbenc against its manifest, with or without the key",
    .synopsis = "[OPTION]... [FILE]",
    .about = "Check an encrypted .tbenc file against its manifest; with the key, every byte of it.\n"
             "\n"
             "Without a key: manifest, header, lengths and number of the records, SHA-256 of the file.\n"
             "With --provider-key: that the provider signed the manifest.\n"
             "With the key also: the tag of every chunk, the order of them all, the hash of each file.\n",
    .options = verify_options,
    .run = verify_main,
};
