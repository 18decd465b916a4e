/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg encrypt: the command line and the report; asset/seal.h does the work, publish/stream.h that of
 * --upload. */
#include <string.h>

#include "common/hex.h"
#include "common/json.h"
#include "common/secret.h"
#include "common/text.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/asset/seal.h"
#include "provider/cmd/rows.h"
#include "provider/cli/interrupt.h"
#include "provider/publish/stream.h"
#include "provider/tbpkg.h"

struct encrypt_job {
    struct cli cli;
    struct asset_stream work;
    bool list, upload;
    struct cli_key_arg base_key;
};

static void encrypt_job_clear(struct encrypt_job *j)
{
    asset_stream_clear(&j->work);
}

#define TB_OPTION_TARGET struct encrypt_job
static const struct tb_option encrypt_options[] = {
    TB_OPTION('a', "asset-id", "ID", TB_OPTION_STRING, work.seal.asset_id,
              "name of the asset: letters, digits, '_', '-' and '.' inside, at most 100"),
    TB_OPTION('i', "in", "INPUT", TB_OPTION_STRING, work.seal.in,
              "the same as INPUT; '-' reads one file from standard input"),
    TB_OPTION('o', "out", "FILE", TB_OPTION_STRING, work.seal.out,
              "write the ciphertext here [model.tbenc]; a directory (it exists, or the name ends in '/') "
              "gets model.tbenc in it; '-' is standard output, and needs --manifest and --key-out"),
    TB_OPTION('m', "manifest", "FILE", TB_OPTION_STRING, work.seal.manifest,
              "write the manifest here [beside the ciphertext: NAME.manifest.json]"),
    TB_OPTION('k', "key-out", "TARGET", TB_OPTION_STRING, work.seal.key_out, ASSET_KEY_OUT_HELP),
    ROW_CHUNK_BYTES(work.seal.chunk_bytes),
    ROW_NO_FINETUNE(work.seal.no_finetune),
    ROWS_SIGN(work.seal.sign),
    ROW_THREADS(work.seal.threads),
    TB_OPTION('f', "force", NULL, TB_OPTION_FLAG, work.seal.force,
              "replace an existing ciphertext and manifest"),
    TB_OPTION('u', "upload", NULL, TB_OPTION_FLAG, upload,
              "seal straight into Blob storage: no ciphertext is written here, and an interrupted run is "
              "continued by "
              "the same command"),
    TB_OPTION_HEADING_ROW("An overlay, which carries only the files that an older version has not:"),
    TB_OPTION(0, "base", "ASSET@VERSION", TB_OPTION_STRING, work.seal.base,
              "make an overlay on that version, under its key; needs --base-manifest and --key-file"),
    TB_OPTION(0, "base-manifest", "FILE", TB_OPTION_STRING, work.seal.base_manifest,
              "the manifest of that version, as it was uploaded"),
    TB_OPTION_HEADING_ROW("A directory:"),
    ROWS_SOURCE(work.seal.how),
    TB_OPTION('l', "list", NULL, TB_OPTION_FLAG, list,
              "list what would be encrypted and what is left out; do nothing"),
    TB_OPTION_HEADING_ROW("With --upload; credentials are looked for as tbpkg upload --help says:"),
    ROW_STORAGE_ACCOUNT(work.store.account),
    ROW_CONTAINER(work.store.container),
    ROW_BLOB_ENDPOINT(work.store.endpoint),
    ROW_CA_FILE(work.store.ca_file),
    TB_OPTION(0, "insecure-http", NULL, TB_OPTION_FLAG, work.store.insecure,
              "allow a plain http:// endpoint that is not loopback"),
    TB_OPTION(0, "key-file", "FILE", TB_OPTION_STRING, work.key_file,
              "the key of an upload that was interrupted, when it is not where it was put; or of --base"),
    TB_OPTION(0, "overwrite", NULL, TB_OPTION_FLAG, work.store.overwrite,
              "replace another asset that is stored under this id"),
    ROWS_TRANSFER(work.store),
    ROWS_CREDENTIAL_FILES(work.store.credentials.connection_string_file,
                          work.store.credentials.account_key_file, work.store.credentials.sas_file),
    TB_OPTION_HEADING_ROW("Every command:"),
    CLI_COMMON_ROWS,
};

static void encrypt_check_chunk(const struct asset_seal *w)
{
    static bool said; /* publish runs us more than once */
    uint64_t mib = w->chunk_bytes >> 20;

    if (w->chunk_bytes == mib << 20 &&
        (mib == 1 || mib == 4 || mib == 8 || mib == 16 || mib == 32 || mib == 64))
        return;
    if (!said)
        tbpkg_warn("--chunk-bytes %llu is unusual; 1, 4, 8, 16, 32 and 64 MiB are well tried",
                   (unsigned long long)w->chunk_bytes);
    said = true;
}

static int encrypt_check_upload(const struct encrypt_job *j)
{
    const struct cli *c = &j->cli;
    const char *key_out = j->work.seal.key_out;
    int rc = store_check_options(c, &j->work.store);

    if (cli_given(c, "out"))
        rc = cli_usage(c,
                       "--upload writes no ciphertext here: leave --out away, or upload the file afterwards");
    if (!key_out || strcmp(key_out, "-") == 0)
        return cli_usage(
            c, "--upload needs --key-out: a file, a directory or a recipient. The key is stored before the "
               "first byte is sent");
    return cli_worse(rc, key_out_check(c, key_out));
}

static int encrypt_check_stdout(const struct encrypt_job *j)
{
    const struct asset_seal *w = &j->work.seal;
    const struct cli *c = &j->cli;

    int rc = CLI_OK;

    if (!w->manifest)
        rc = cli_usage(c, "--out -: name the manifest with --manifest");
    if (!w->key_out || strcmp(w->key_out, "-") == 0)
        rc = cli_usage(c, "--out -: the key cannot go to standard output too; give --key-out");
    if (c->json)
        rc = cli_usage(c, "--out -: standard output is either JSON or the ciphertext");
    if (isatty(STDOUT_FILENO))
        rc = cli_usage(c, "--out -: standard output is a terminal");
    return rc;
}

static int encrypt_check_local(const struct encrypt_job *j)
{
    const struct asset_seal *w = &j->work.seal;
    const struct cli *c = &j->cli;
    bool to_stdout = strcmp(w->out, "-") == 0;
    int rc = to_stdout ? encrypt_check_stdout(j) : CLI_OK;

    if (!*w->out)
        rc = cli_usage(c, "--out: name a file, or '-' for standard output");
    if (w->key_out)
        rc = cli_worse(rc, key_out_check(c, w->key_out));
    if (j->cli.json && !to_stdout && !w->base && (!w->key_out || strcmp(w->key_out, "-") == 0))
        rc = cli_usage(c, "--json needs --key-out: standard output is either JSON or the key");
    return rc;
}

static int encrypt_check_base(struct encrypt_job *j)
{
    struct asset_seal *w = &j->work.seal;
    const struct cli *c = &j->cli;

    if (!w->base && w->base_manifest)
        return cli_usage(c, "--base-manifest is of an overlay: say which version by --base");
    if (!w->base)
        return CLI_OK;
    if (j->upload || w->key_out || cli_given(c, "chunk-bytes"))
        return cli_usage(c, "--base and --%s exclude each other: %s",
                         j->upload    ? "upload"
                         : w->key_out ? "key-out"
                                      : "chunk-bytes",
                         j->upload    ? "an overlay is small; upload it afterwards"
                         : w->key_out ? "an overlay has the key of its base"
                                      : "it is the base's");
    if (!w->base_manifest)
        return cli_usage(c, "--base: the manifest of that version is missing; name it by --base-manifest");
    j->base_key.file = j->work.key_file;
    if (!cli_key_arg_given(&j->base_key))
        return cli_usage(c, "--base: the key of that version is missing; name its file by --key-file");
    w->base_key = &j->base_key;
    return CLI_OK;
}

static int encrypt_check_options(void *job)
{
    struct encrypt_job *j = job;
    const struct asset_seal *w = &j->work.seal;
    const struct cli *c = &j->cli;

    int rc = j->list ? CLI_OK : cli_check_asset_id(c, w->asset_id);

    if (!w->in || !*w->in)
        rc = cli_usage(c, "no input: name a file or a directory");
    if (j->list)
        return rc;
    rc = cli_worse(rc, encrypt_check_base(j));
    rc = cli_worse(rc, j->upload ? encrypt_check_upload(j) : encrypt_check_local(j));
    if (rc == CLI_OK && !w->base) /* whose chunk size is not ours to choose */
        encrypt_check_chunk(w);
    return rc;
}

static int encrypt_report_json(const struct encrypt_job *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    const struct asset_seal *w = &j->work.seal;
    const struct tbenc_manifest *m = w->result;
    char hex[2 * TBENC_SHA256_BYTES + 1];

    cJSON_AddStringToObject(o, "asset_id", m->asset_id);
    if (w->out_path)
        cJSON_AddStringToObject(o, "encrypted_file", w->out_path);
    cJSON_AddStringToObject(o, "manifest", w->manifest_path);
    if (m->base) {
        tb_json_add_uint(o, "base_version", m->base->version);
        tb_json_add_uint(o, "files_of_base", m->base->n_files);
    }
    cJSON_AddStringToObject(o, "key_id", w->key.id);
    cJSON_AddStringToObject(o, "key_file", w->key.path);
    if (w->key.recipient)
        cJSON_AddStringToObject(o, "key_recipient", w->key.recipient);
    tb_json_add_uint(o, "chunk_bytes", m->chunk_bytes);
    tb_json_add_uint(o, "records", tbenc_manifest_records(m));
    tb_json_add_uint(o, "files", m->files ? m->n_files : 1);
    tb_json_add_uint(o, "plaintext_bytes", m->plaintext_bytes);
    tb_json_add_uint(o, "ciphertext_bytes", tbenc_manifest_ciphertext_bytes(m));
    tb_hex_encode(m->sha256_ciphertext, TBENC_SHA256_BYTES, hex);
    cJSON_AddStringToObject(o, "sha256_ciphertext", hex);
    tb_hex_encode(m->tags_sha256, TBENC_SHA256_BYTES, hex);
    cJSON_AddStringToObject(o, "tags_sha256", hex);
    cJSON_AddBoolToObject(o, "allow_finetune", m->allow_finetune);
    if (signer_signs(&w->signer))
        cJSON_AddStringToObject(o, "provider_key", w->signer.text);
    cJSON_AddNumberToObject(o, "seconds", w->seconds);
    if (j->upload) {
        cJSON *up = cJSON_AddObjectToObject(o, "upload");

        cJSON_AddItemToObject(up, "ciphertext", store_report(&j->work.store, &j->work.store.ct));
        cJSON_AddItemToObject(up, "manifest", store_report(&j->work.store, &j->work.store.mf));
    }
    return cli_print_json(o);
}

static int encrypt_report(const struct encrypt_job *j)
{
    const struct asset_seal *w = &j->work.seal;
    const struct tbenc_manifest *m = w->result;
    char size[32];

    tbpkg_note(j->cli.quiet, "asset:      %s, %s in %zu file%s", m->asset_id,
               tb_bytes_format(m->plaintext_bytes, size, sizeof(size)), m->files ? m->n_files : 1,
               m->n_files > 1 ? "s" : "");
    if (j->upload)
        tbpkg_note(j->cli.quiet, "ciphertext: %s/%s", j->work.store.service.url, j->work.store.ct.path);
    else
        tbpkg_note(j->cli.quiet, "ciphertext: %s", w->out_path);
    tbpkg_note(j->cli.quiet, "manifest:   %s", w->manifest_path);
    if (signer_signs(&w->signer))
        tbpkg_note(j->cli.quiet, "signed:     %s" SIGNER_SUFFIX ", by %s", w->manifest_path, w->signer.text);
    if (m->base)
        tbpkg_note(j->cli.quiet, "overlay:    %zu other file%s taken from version %llu", m->base->n_files,
                   m->base->n_files == 1 ? " is" : "s are", (unsigned long long)m->base->version);
    if (m->base)
        tbpkg_note(j->cli.quiet, "key:        %s, that of version %llu: it opens both", w->key.id,
                   (unsigned long long)m->base->version);
    else if (w->key.recipient)
        tbpkg_note(j->cli.quiet,
                   "key:        %s in %s, for %s only (keep it: nothing else opens the ciphertext)",
                   w->key.id, w->key.path, w->key.recipient);
    else if (w->key.path)
        tbpkg_note(j->cli.quiet, "key:        %s in %s (keep it: nothing else opens the ciphertext)",
                   w->key.id, w->key.path);
    else
        tbpkg_note(j->cli.quiet, "key:        %s, on standard output (save it now: it is stored nowhere)",
                   w->key.id);
    return j->cli.json ? encrypt_report_json(j) : CLI_OK;
}

static cJSON *encrypt_list_json(const struct model_source *s)
{
    cJSON *o = cJSON_CreateObject(), *files = cJSON_AddArrayToObject(o, "files"), *out;

    for (size_t i = 0; i < source_count(s); i++) {
        cJSON *f = cJSON_CreateObject();

        cJSON_AddStringToObject(f, "path", s->is_dir ? s->dir.inputs[i].path : s->path);
        if (source_inputs(s)[i].bytes != UINT64_MAX)
            tb_json_add_uint(f, "bytes", source_inputs(s)[i].bytes);
        cJSON_AddItemToArray(files, f);
    }
    out = cJSON_AddArrayToObject(o, "left_out");
    for (size_t i = 0; i < s->dir.n_left_out; i++)
        cJSON_AddItemToArray(out, cJSON_CreateString(s->dir.left_out[i]));
    if (s->bytes != UINT64_MAX)
        tb_json_add_uint(o, "plaintext_bytes", s->bytes);
    return o;
}

static int encrypt_list(struct encrypt_job *j)
{
    struct model_source *s = &j->work.seal.source;
    _cleanup_json_ cJSON *o = NULL;
    int rc;

    j->work.seal.how.quiet = true; /* the list says it */
    rc = source_open(j->work.seal.in, &j->work.seal.how, s);
    if (rc != CLI_OK)
        return rc;
    if (j->cli.json) {
        o = encrypt_list_json(s);
        return cli_print_json(o);
    }
    for (size_t i = 0; i < source_count(s); i++)
        printf("%15llu  %s\n", (unsigned long long)source_inputs(s)[i].bytes,
               s->is_dir ? s->dir.inputs[i].path : s->path);
    for (size_t i = 0; i < s->dir.n_left_out; i++) {
        _cleanup_free_ char *name = strdup(s->dir.left_out[i]); /* a manifest's rules do not hold for it */

        printf("%15s  %s\n", "left out", name ? tb_text_plain(name) : "?");
    }
    return cli_flush_stdout();
}

static int encrypt_main(int argc, char **argv)
{
    _cleanup_(encrypt_job_clear) struct encrypt_job j = {.cli = {.command = &tbpkg_encrypt},
                                                         .work = ASSET_STREAM_INIT};
    int rc;

    j.work.seal.cli = j.work.store.cli = &j.cli;
    if (cli_parse(&j.cli, &j, argc, argv, CLI_ONE_INPUT, &j.work.seal.in, encrypt_check_options) != CLI_OK)
        return j.cli.rc;
    if (j.list)
        return encrypt_list(&j);
    j.work.seal.how.quiet = j.cli.quiet;
    j.work.store.asset_id = j.work.seal.asset_id;
    if (j.upload) {
        tb_secret_init();
        cli_interrupt_note("Interrupted; run the same command again to resume.");
    }
    rc = j.upload ? asset_stream(&j.work) : asset_seal(&j.work.seal);
    return rc == CLI_OK ? encrypt_report(&j) : rc;
}

const struct tbpkg_command tbpkg_encrypt = {
    .name = "encrypt",
    .summary = "seal a model file or directory into a .tbenc and its manifest",
    .synopsis = "--asset-id ID [OPTION]... INPUT",
    .about = "Seal a model file or directory into an encrypted .tbenc file and its manifest.\n"
             "\n"
             "The decryption key goes to --key-out, or to standard output as 64 hex digits on a line.\n"
             "Keep it: nothing else can open the file. --json needs --key-out.\n",
    .options = encrypt_options,
    .run = encrypt_main,
};
