/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg decrypt: the command line and the report; asset/unseal.h does the work. */
#include <string.h>

#include "common/json.h"
#include "common/units.h"
#include "provider/asset/unseal.h"
#include "provider/cmd/rows.h"
#include "provider/tbpkg.h"

struct decrypt_job {
    struct cli cli;
    struct cli_key_arg key_arg;
    struct asset_unseal work;
};

static void decrypt_job_clear(struct decrypt_job *j)
{
    asset_unseal_clear(&j->work);
    cli_key_arg_clear(&j->key_arg);
}

#define TB_OPTION_TARGET struct decrypt_job
static const struct tb_option decrypt_options[] = {
    ROW_CIPHERTEXT(work.in),
    ROW_MANIFEST(work.manifest),
    ROW_BASE_FILE(work.base),
    CLI_KEY_ROWS(key_arg),
    TB_OPTION('o', "out", "OUTPUT", TB_OPTION_DIR_NAME, work.out,
              "file to write, directory for an asset with a file table, or '-' for standard output"),
    ROW_PROVIDER_KEY_OF_MANIFEST(work.provider_key),
    ROW_THREADS(work.threads),
    TB_OPTION('f', "force", NULL, TB_OPTION_FLAG, work.force, "replace an existing output"),
    ROW_LENIENT(work.flags),
    CLI_COMMON_ROWS,
};

static int decrypt_check_options(void *job)
{
    const struct decrypt_job *j = job;
    const struct cli *c = &j->cli;
    int rc = CLI_OK;

    if (!j->work.out || !*j->work.out)
        rc = cli_usage(c, "--out is missing: name the file or directory to write");
    else if (j->cli.json && strcmp(j->work.out, "-") == 0)
        rc = cli_usage(c, "--json and --out=- both want standard output");
    if (!cli_key_arg_given(&j->key_arg))
        rc = cli_usage(c, "a key is needed: give --key-file, or name the file in TBPKG_KEY_FILE");
    return cli_worse(rc, cli_check_inputs(c, j->work.in, j->work.manifest, &j->key_arg));
}

static int decrypt_report(const struct decrypt_job *j)
{
    const struct tbenc_manifest *m = j->work.tree;
    _cleanup_json_ cJSON *o = NULL;
    char size[32];

    tbpkg_note(j->cli.quiet, "%s: %s in %zu file%s, verified",
               strcmp(j->work.out, "-") == 0 ? "standard output" : j->work.out,
               tb_bytes_format(m->plaintext_bytes, size, sizeof(size)), m->files ? m->n_files : 1,
               m->n_files > 1 ? "s" : "");
    if (!j->cli.json)
        return CLI_OK;
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "asset_id", m->asset_id);
    cJSON_AddStringToObject(o, "output", j->work.out);
    tb_json_add_uint(o, "plaintext_bytes", m->plaintext_bytes);
    tb_json_add_uint(o, "files", m->files ? m->n_files : 1);
    return cli_print_json(o);
}

static int decrypt_main(int argc, char **argv)
{
    _cleanup_(decrypt_job_clear) struct decrypt_job j = {.cli = {.command = &tbpkg_decrypt},
                                                         .work = {.asset = ASSET_INIT, .under = ASSET_INIT}};
    int rc;

    j.work.cli = &j.cli;
    j.work.key_arg = &j.key_arg;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_ONE_INPUT, &j.work.in, decrypt_check_options) != CLI_OK)
        return j.cli.rc;
    rc = asset_unseal(&j.work);
    return rc == CLI_OK ? decrypt_report(&j) : rc;
}

const struct tbpkg_command tbpkg_decrypt = {
    .name = "decrypt",
    .summary = "open a .tbenc again",
    .synopsis = "--out=OUTPUT [OPTION]... [FILE]",
    .about =
        "Open an encrypted .tbenc file with its manifest and its key.\n"
        "\n"
        "Every chunk is authenticated, their order and number and the ciphertext's SHA-256 are checked;\n"
        "the output appears under its name only when all of that has passed. With --provider-key nothing is\n"
        "opened that the provider did not sign.\n",
    .options = decrypt_options,
    .run = decrypt_main,
};
