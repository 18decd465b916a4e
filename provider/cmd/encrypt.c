/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg encrypt. Order of events, so that no crash loses a key that is needed: everything is written under temporary
 * names and synced; then the key takes its name (or goes to stdout), then the ciphertext, then the manifest. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/cli/cli.h"
#include "common/config.h"
#include "common/hex.h"
#include "common/json.h"
#include "provider/cli/option.h"
#include "provider/asset/source.h"
#include "provider/tbpkg.h"
#include "common/units.h"

struct job {
    struct cli cli;
    /* options */
    const char *asset_id, *in, *out, *manifest, *key_out;
    uint64_t chunk_bytes, threads;
    bool no_finetune, force;
    /* what they stand for */
    struct source source;
    char *out_path, *manifest_path;
    struct tb_newfile ct, mf, kf; /* ciphertext, manifest, key */
    struct tbenc_manifest *result;
    double seconds;
};

static void job_clear(struct job *j)
{
    source_close(&j->source);
    tb_newfile_abort(&j->ct);
    tb_newfile_abort(&j->mf);
    tb_newfile_abort(&j->kf);
    cli_temp_forget_all();
    tb_freep(&j->out_path);
    tb_freep(&j->manifest_path);
    j->result = tbenc_manifest_free(j->result);
}

/* -- command line -------------------------------------------------------------------------------------------------- */

static int check_options(struct job *j)
{
    const struct cli *c = &j->cli;
    uint64_t mib = j->chunk_bytes >> 20;

    if (!j->asset_id)
        return cli_usage(c, "--asset-id is missing");
    if (!tb_id_valid(j->asset_id))
        return cli_usage(c, "--asset-id: 1 to 100 letters, digits, '_' and '-', not '%s'", j->asset_id);
    if (!j->in || !*j->in)
        return cli_usage(c, "no input: name a file or a directory");
    if (strcmp(j->out, "-") == 0 || !*j->out)
        return cli_usage(c, "--out: name a file; the ciphertext cannot go to standard output");
    if (j->key_out && (strcmp(j->key_out, "-") == 0 || !*j->key_out))
        return cli_usage(c, "--key-out: name a file; without the option the key goes to standard output");
    if (j->cli.json && !j->key_out)
        return cli_usage(c, "--json needs --key-out: standard output is either JSON or the key");
    if (j->chunk_bytes != mib << 20 ||
        (mib != 1 && mib != 4 && mib != 8 && mib != 16 && mib != 32 && mib != 64))
        tbpkg_warn("--chunk-bytes %llu is unusual; 1, 4, 8, 16, 32 and 64 MiB are well tried",
                   (unsigned long long)j->chunk_bytes);
    return CLI_OK;
}

static const struct cli_option options[] = {
    CLI_OPTION('a', "asset-id", "ID", CLI_STRING, asset_id,
               "name of the asset: letters, digits, '_' and '-', at most 100"),
    CLI_OPTION('i', "in", "INPUT", CLI_STRING, in,
               "the same as INPUT; '-' reads one file from standard input"),
    CLI_OPTION('o', "out", "FILE", CLI_STRING, out,
               "write the ciphertext here [model.tbenc]; a directory (it exists, or the name ends in '/') "
               "gets model.tbenc in it"),
    CLI_OPTION('m', "manifest", "FILE", CLI_STRING, manifest,
               "write the manifest here [beside the ciphertext: NAME.manifest.json]"),
    CLI_OPTION('k', "key-out", "FILE", CLI_STRING, key_out,
               "write the key here (mode 0600); an existing file is never replaced"),
    CLI_OPTION('c', "chunk-bytes", "SIZE", CLI_SIZE, chunk_bytes,
               "plaintext bytes in a record, 1K to 64M [4M]", .setting = "encryption.chunk_bytes",
               .min = TBENC_CHUNK_BYTES_MIN, .max = TBENC_CHUNK_BYTES_MAX),
    CLI_OPTION(0, "no-finetune", NULL, CLI_FLAG, no_finetune,
               "say in the manifest that fine-tuning is not allowed"),
    CLI_OPTION('t', "threads", "N", CLI_UINT, threads, "workers [one for each CPU]", .min = 1,
               .max = TBENC_THREADS_MAX),
    CLI_OPTION('f', "force", NULL, CLI_FLAG, force, "replace an existing ciphertext and manifest"),
    CLI_COMMON,
};

static int parse(struct job *j, int argc, char **argv)
{
    if (cli_parse(&j->cli, j, argc, argv) != CLI_OK)
        return CLI_STOP;
    j->cli.rc = cli_positional(&j->cli, argc, argv, &j->in);
    if (j->cli.rc == CLI_OK)
        j->cli.rc = check_options(j);
    return cli_ready(&j->cli);
}

/* -- outputs ------------------------------------------------------------------------------------------------------- */

static int name_outputs(struct job *j)
{
    struct stat st;
    size_t n = strlen(j->out);
    bool dir = j->out[n - 1] == '/' || (stat(j->out, &st) == 0 && S_ISDIR(st.st_mode));
    const char *base;
    int r;

    if (dir) {
        r = tb_mkdir_p(j->out, 0777);
        if (r < 0)
            return tbpkg_fail_errno(j->out, r);
    }
    j->out_path =
        dir ? tb_strf("%s%s" ASSET_DEFAULT_NAME, j->out, j->out[n - 1] == '/' ? "" : "/") : strdup(j->out);
    if (!j->out_path)
        return tbpkg_fail_errno(j->out, -ENOMEM);
    j->manifest_path = j->manifest ? strdup(j->manifest) : asset_manifest_name(j->out_path);
    if (!j->manifest_path)
        return tbpkg_fail_errno(j->out, -ENOMEM);
    base = strrchr(j->out_path, '/');
    base = base ? base + 1 : j->out_path;
    if (strlen(base) > TBENC_NAME_MAX || !tbenc_path_valid(base))
        return tbpkg_fail(j->out_path, "a manifest cannot hold this file name",
                          "use UTF-8 without control characters");
    return CLI_OK;
}

/* One output: its directory exists, the name is free or may be replaced, and the input is not under it. */
static int check_output(const struct job *j, const char *option, const char *path, bool replace)
{
    struct stat st;
    int rc;

    if (lstat(path, &st) == 0) {
        if (!replace)
            return tbpkg_fail(path, "exists already",
                              path == j->key_out
                                  ? "keep it, it may be the only copy of a key, and choose another name"
                                  : "choose another name or say --force");
        if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* /dev/null, or a link to such a thing */
            return tbpkg_fail(path, "exists and is no regular file", "choose another name");
    }
    rc = asset_check_space(path, 0); /* also says when the directory is missing */
    return rc == CLI_OK ? source_check_output(&j->source, option, path) : rc;
}

static int same_name(const char *a, const char *b)
{
    const char *sa = strrchr(a, '/'), *sb = strrchr(b, '/');
    _cleanup_free_ char *da = sa ? strndup(a, (size_t)(sa + 1 - a)) : strdup("."), *ra = NULL;
    _cleanup_free_ char *db = sb ? strndup(b, (size_t)(sb + 1 - b)) : strdup("."), *rb = NULL;

    if (strcmp(sa ? sa + 1 : a, sb ? sb + 1 : b) != 0 || !da || !db)
        return 0;
    ra = realpath(da, NULL);
    rb = realpath(db, NULL);
    return ra && rb && strcmp(ra, rb) == 0;
}

static int check_outputs(struct job *j)
{
    int rc = name_outputs(j);

    if (rc != CLI_OK)
        return rc;
    if (same_name(j->out_path, j->manifest_path) ||
        (j->key_out && (same_name(j->key_out, j->manifest_path) || same_name(j->key_out, j->out_path))))
        return cli_usage(&j->cli, "--out, --manifest and --key-out must be different files");
    rc = check_output(j, "--out", j->out_path, j->force);
    if (rc == CLI_OK)
        rc = check_output(j, "--manifest", j->manifest_path, j->force);
    if (rc == CLI_OK && j->key_out)
        rc = check_output(j, "--key-out", j->key_out, false);
    if (rc != CLI_OK)
        return rc;
    return asset_check_space(j->out_path, source_ciphertext_bytes(&j->source, j->chunk_bytes));
}

static int create_outputs(struct job *j)
{
    int r = cli_newfile_open(&j->ct, j->out_path, 0666);

    if (r < 0)
        return tbpkg_fail_errno(j->out_path, r);
    r = cli_newfile_open(&j->mf, j->manifest_path, 0666);
    if (r < 0)
        return tbpkg_fail_errno(j->manifest_path, r);
    if (!j->key_out)
        return CLI_OK;
    r = cli_newfile_open(&j->kf, j->key_out, 0600);
    return r < 0 ? tbpkg_fail_errno(j->key_out, r) : CLI_OK;
}

/* -- sealing and publishing ---------------------------------------------------------------------------------------- */

static int seal(struct job *j, const struct tb_key *key)
{
    const char *base = strrchr(j->out_path, '/');
    uint64_t total = j->source.bytes == UINT64_MAX ? 0 : j->source.bytes;
    struct tb_progress progress = cli_progress_start(&j->cli, "Encrypting", total);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    struct tbenc_seal_params p = {
        .key = key->b,
        .chunk_bytes = (uint32_t)j->chunk_bytes,
        .threads = (unsigned)j->threads,
        .asset_id = j->asset_id,
        .weights_filename = base ? base + 1 : j->out_path,
        .allow_finetune = !j->no_finetune,
        .progress = cli_progress,
        .progress_ctx = &progress,
    };
    uint64_t start = tb_now_monotonic_us();
    int r;

    r = tbenc_seal(&p, source_inputs(&j->source), source_count(&j->source), j->source.is_dir, j->ct.fd,
                   &j->result, &e);
    if (r == -ENOSPC || r == -EDQUOT || r == -EFBIG)
        return tbpkg_fail_errno(j->out_path, r);
    if (r == -EBADMSG)
        return tbpkg_fail(j->in, e.message, "encrypt a copy that nothing writes to");
    if (r < 0)
        return asset_fail(j->in, r, &e);
    if (j->result->plaintext_bytes == 0)
        return tbpkg_fail(j->in, "is empty", "give a file with data");
    cli_progress_finish(&progress, j->result->plaintext_bytes);
    j->seconds = (double)(tb_now_monotonic_us() - start) / 1e6;
    return source_check_unchanged(&j->source);
}

static int write_manifest(struct job *j)
{
    _cleanup_free_ char *text = NULL;
    size_t len;
    int r = tbenc_manifest_format(j->result, &text, &len);

    if (r == 0)
        r = tb_write_full(j->mf.fd, text, len);
    if (r == 0 && fsync(j->mf.fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno(j->manifest_path, r) : CLI_OK;
}

/* The key where it belongs, before anything needs it. */
static int write_key(struct job *j, const struct tb_key *key)
{
    char line[TB_KEY_HEX_CHARS + 2];
    int r;

    tb_hex_encode(key->b, TB_KEY_BYTES, line);
    line[TB_KEY_HEX_CHARS] = '\n';
    r = tb_write_full(j->key_out ? j->kf.fd : STDOUT_FILENO, line,
                      TB_KEY_HEX_CHARS + 1); /* not into a stdio buffer */
    tb_erase(line, sizeof(line));
    if (r == 0 && j->key_out && fsync(j->kf.fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno(j->key_out ? j->key_out : "key on standard output", r) : CLI_OK;
}

static int commit(struct tb_newfile *f, const char *path, bool replace)
{
    int r = tb_newfile_commit(f, replace);

    if (r == -EEXIST)
        return tbpkg_fail(path, "appeared meanwhile", "choose another name or say --force");
    return r < 0 ? tbpkg_fail_errno(path, r) : CLI_OK;
}

/* All names or none: what took its name before a failure gives it back (a file replaced by --force is gone, though). */
static int publish(struct job *j)
{
    int rc = CLI_OK;

    if (fsync(j->ct.fd) < 0) /* long: while an interrupt can still stop us */
        return tbpkg_fail_errno(j->out_path, -errno);
    cli_signals_block();
    if (j->key_out)
        rc = commit(&j->kf, j->key_out, false);
    if (rc == CLI_OK) {
        rc = commit(&j->ct, j->out_path, j->force);
        if (rc == CLI_OK) {
            rc = commit(&j->mf, j->manifest_path, j->force);
            if (rc != CLI_OK)
                (void)unlink(j->out_path);
        }
        if (rc != CLI_OK && j->key_out)
            (void)unlink(j->key_out);
    }
    cli_temp_forget_all();
    cli_signals_unblock();
    return rc;
}

/* -- telling ------------------------------------------------------------------------------------------------------- */

static int report_json(const struct job *j)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    const struct tbenc_manifest *m = j->result;
    char hex[2 * TBENC_SHA256_BYTES + 1];

    cJSON_AddStringToObject(o, "asset_id", m->asset_id);
    cJSON_AddStringToObject(o, "encrypted_file", j->out_path);
    cJSON_AddStringToObject(o, "manifest", j->manifest_path);
    cJSON_AddStringToObject(o, "key_file", j->key_out);
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
    cJSON_AddNumberToObject(o, "seconds", j->seconds);
    return cli_print_json(o);
}

static int report(const struct job *j)
{
    const struct tbenc_manifest *m = j->result;
    char size[32];

    tbpkg_note(&j->cli, "asset:      %s, %s in %zu file%s", m->asset_id,
               tb_bytes_format(m->plaintext_bytes, size, sizeof(size)), m->files ? m->n_files : 1,
               m->n_files > 1 ? "s" : "");
    tbpkg_note(&j->cli, "ciphertext: %s", j->out_path);
    tbpkg_note(&j->cli, "manifest:   %s", j->manifest_path);
    if (j->key_out)
        tbpkg_note(&j->cli, "key:        %s (keep it: nothing else opens the ciphertext)", j->key_out);
    else
        tbpkg_note(&j->cli, "key:        on standard output (save it now: it is stored nowhere)");
    return j->cli.json ? report_json(j) : CLI_OK;
}

static int run(struct job *j)
{
    _cleanup_key_ struct tb_key key;
    int r, rc;

    rc = source_open(j->in, &j->source);
    if (rc == CLI_OK)
        rc = check_outputs(j);
    if (rc == CLI_OK)
        rc = create_outputs(j);
    if (rc != CLI_OK)
        return rc;
    r = tb_random(&key, sizeof(key));
    if (r < 0)
        return tbpkg_fail_errno("random key", r);
    rc = seal(j, &key);
    if (rc == CLI_OK)
        rc = write_manifest(j);
    if (rc == CLI_OK)
        rc = write_key(j, &key);
    if (rc == CLI_OK)
        rc = publish(j);
    return rc == CLI_OK ? report(j) : rc;
}

static int encrypt_main(int argc, char **argv)
{
    _cleanup_(job_clear) struct job j = {
        .cli = {.command = &tbpkg_encrypt},
        .out = ASSET_DEFAULT_NAME,
        .chunk_bytes = TBENC_CHUNK_BYTES_DEFAULT,
        .source = SOURCE_INIT,
        .ct = TB_NEWFILE_INIT,
        .mf = TB_NEWFILE_INIT,
        .kf = TB_NEWFILE_INIT,
    };

    return parse(&j, argc, argv) == CLI_OK ? run(&j) : j.cli.rc;
}

const struct tbpkg_command tbpkg_encrypt = {
    .name = "encrypt",
    .summary = "seal a model file or directory into a .tbenc and its manifest",
    .synopsis = "--asset-id ID [OPTION]... INPUT",
    .about = "Seal a model file or directory into an encrypted .tbenc file and its manifest.\n"
             "\n"
             "The decryption key goes to --key-out, or to standard output as 64 hex digits on a line.\n"
             "Keep it: nothing else can open the file. --json needs --key-out.\n",
    .options = options,
    .run = encrypt_main,
};
