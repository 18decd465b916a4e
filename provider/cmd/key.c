/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg key: which key is this, does it open that asset, put it elsewhere. */
#include <errno.h>
#include <getopt.h>
#include <string.h>
#include <sys/stat.h>

#include "common/json.h"
#include "provider/asset/asset.h"
#include "provider/asset/key.h"
#include "provider/cli/interrupt.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"

struct key_job {
    struct cli cli;
    const char *in, *manifest, *asset_id, *key_out;
    struct cli_key_arg key_arg;
    unsigned flags;
    struct tb_key key;
    char id[ASSET_KEY_ID_HEX + 1];
    struct asset asset;
};

static void key_job_clear(struct key_job *j)
{
    cli_key_arg_clear(&j->key_arg);
    tb_key_erase(&j->key);
    asset_clear(&j->asset);
}

#define TB_OPTION_TARGET struct key_job
static const struct tb_option key_options[] = {
    CLI_KEY_ROWS(key_arg),
    TB_OPTION_HEADING_ROW("key check:"),
    ROW_CIPHERTEXT(in),
    ROW_MANIFEST(manifest),
    ROW_LENIENT(flags),
    TB_OPTION_HEADING_ROW("key export:"),
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, asset_id,
              "name of the asset, for the name of the file [that of --manifest]"),
    TB_OPTION(0, "key-out", "TARGET", TB_OPTION_STRING, key_out, ASSET_KEY_OUT_HELP),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

static int key_print(const struct key_job *j, const char *file)
{
    _cleanup_json_ cJSON *o = NULL;

    if (!j->cli.json) {
        printf("%s\n", j->id);
        return cli_flush_stdout();
    }
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "key_id", j->id);
    if (j->asset.manifest)
        cJSON_AddStringToObject(o, "asset_id", j->asset.manifest->asset_id);
    if (file)
        cJSON_AddStringToObject(o, "key_file", file);
    return cli_print_json(o);
}

static int key_show_id(struct key_job *j)
{
    return key_print(j, NULL);
}

/* The tag of the first record tells for sure; without the ciphertext the manifest's word has to do. */
static int key_open_first(struct key_job *j)
{
    const struct tbenc_open_params p = {
        .manifest = j->asset.manifest, .key = j->key.b, .threads = 1, .flags = j->flags};
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    struct tbenc_reader *r = NULL;
    uint8_t byte;
    ssize_t n = tbenc_reader_new(&p, j->asset.fd, &r, &e);

    if (n >= 0)
        n = tbenc_reader_pread(r, &byte, 1, 0, &e);
    tbenc_reader_free(r);
    if (n == -EBADMSG)
        return tbpkg_failf(j->asset.path, "key %s does not open it", j->id);
    return n < 0 ? asset_fail(j->asset.path, (int)n, &e) : CLI_OK;
}

static int key_check(struct key_job *j)
{
    char wanted[ASSET_KEY_ID_HEX + 1];
    bool with_ciphertext = j->in || !j->manifest;
    int rc = with_ciphertext ? asset_open(j->in, j->manifest, j->flags, &j->asset)
                             : asset_manifest_read(j->manifest, j->flags, &j->asset.manifest);

    if (rc == CLI_OK)
        rc = asset_key_check(j->asset.manifest, &j->key, cli_key_arg_name(&j->key_arg));
    if (rc == CLI_OK && with_ciphertext)
        rc = key_open_first(j);
    else if (rc == CLI_OK && !*asset_key_id_wanted(j->asset.manifest, wanted))
        rc = tbpkg_fail(j->manifest, "names no key",
                        "name the ciphertext with --in, so that the key can be tried");
    if (rc != CLI_OK)
        return rc;
    if (j->cli.json)
        return key_print(j, NULL);
    tbpkg_note(j->cli.quiet, "Key %s opens asset '%s'.", j->id, j->asset.manifest->asset_id);
    return CLI_OK;
}

static int key_export(struct key_job *j)
{
    _cleanup_key_out_ struct key_out o = KEY_OUT_INIT;
    int rc = CLI_OK;

    if (j->manifest)
        rc = asset_manifest_read(j->manifest, j->flags, &j->asset.manifest);
    if (rc == CLI_OK && j->asset.manifest)
        rc = asset_key_check(j->asset.manifest, &j->key, cli_key_arg_name(&j->key_arg));
    if (rc == CLI_OK && j->asset.manifest && !j->asset_id)
        j->asset_id = j->asset.manifest->asset_id;
    if (rc == CLI_OK)
        rc = key_out_prepare(&o, j->key_out, NULL, j->asset_id ? j->asset_id : "asset", &j->key);
    if (rc == CLI_OK)
        rc = key_out_create(&o);
    if (rc == CLI_OK)
        rc = key_out_write(&o, &j->key);
    if (rc == CLI_OK)
        rc = key_out_commit(&o);
    cli_temp_forget_all();
    if (rc != CLI_OK || !o.path)
        return rc;
    if (j->cli.json)
        return key_print(j, o.path);
    tbpkg_note(j->cli.quiet, "Key %s is in %s.", j->id, o.path);
    return CLI_OK;
}

static const struct {
    const char *name;
    int (*run)(struct key_job *j);
} key_actions[] = {{"show-id", key_show_id}, {"check", key_check}, {"export", key_export}};

static int key_check_options(const struct key_job *j)
{
    if (!j->key_out)
        return CLI_OK;
    if (j->cli.json && strcmp(j->key_out, "-") == 0)
        return cli_usage(&j->cli, "--json and --key-out=- both want standard output");
    return key_out_check(&j->cli, j->key_out);
}

static int key_main(int argc, char **argv)
{
    _cleanup_(key_job_clear) struct key_job j = {.cli = {.command = &tbpkg_key}, .asset = ASSET_INIT};
    int (*run)(struct key_job *) = NULL;
    int rc;

    if (cli_parse(&j.cli, &j, argc, argv, CLI_ANY_WORDS, NULL, NULL) != CLI_OK)
        return j.cli.rc;
    for (size_t i = 0; optind < argc && i < ARRAY_SIZE(key_actions); i++)
        if (strcmp(argv[optind], key_actions[i].name) == 0)
            run = key_actions[i].run;
    if (!run)
        return cli_usage(&j.cli, "name what to do: show-id, check or export");
    if (run == key_check && optind + 1 < argc && !j.in)
        j.in = argv[++optind];
    if (optind + 1 < argc)
        return cli_usage(&j.cli, "unexpected argument '%s'", argv[optind + 1]);
    if (run == key_export && !j.key_out)
        return cli_usage(&j.cli, "--key-out is missing: where the key goes");
    rc = key_check_options(&j);
    if (rc == CLI_OK && j.asset_id)
        rc = cli_check_asset_id(&j.cli, j.asset_id);
    if (rc == CLI_OK)
        rc = cli_key_arg_read(&j.cli, &j.key_arg, &j.key);
    if (rc == CLI_OK)
        rc = asset_key_id(&j.key, j.id);
    return rc == CLI_OK ? run(&j) : rc;
}

const struct tbpkg_command tbpkg_key = {
    .name = "key",
    .summary = "show a key's id, check what it opens, copy it elsewhere",
    .synopsis = "show-id|check|export --key-file FILE [OPTION]... [FILE]",
    .about = "show-id  print the id of a key: 16 hex digits, which say nothing else about it\n"
             "check    does it open that asset? by the id in the manifest and the first record of FILE\n"
             "export   put the key to another place, as --key-out of tbpkg encrypt does\n",
    .options = key_options,
    .run = key_main,
};
