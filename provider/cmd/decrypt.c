/* SPDX-License-Identifier: Apache-2.0 */
/* tbpkg decrypt: plaintext takes its name only after every check passed. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "provider/asset/asset.h"
#include "provider/cli/cli.h"
#include "common/json.h"
#include "provider/cli/option.h"
#include "provider/asset/out_tree.h"
#include "provider/tbpkg.h"
#include "common/units.h"

struct job {
    struct cli cli;
    const char *in, *manifest, *out;
    struct cli_key_arg key_arg;
    uint64_t threads;
    unsigned flags;
    bool force;
    struct tb_key key;
    struct asset asset;
    struct tb_progress progress;
};

static void job_clear(struct job *j)
{
    cli_key_arg_clear(&j->key_arg);
    tb_key_erase(&j->key);
    asset_clear(&j->asset);
    cli_temp_forget_all();
}

/* -- command line -------------------------------------------------------------------------------------------------- */

static const struct cli_option options[] = {
    CLI_OPTION('i', "in", "FILE", CLI_STRING, in,
               "the same as FILE [model.tbenc, or what the manifest names]; '-' is standard input"),
    CLI_OPTION('m', "manifest", "FILE", CLI_STRING, manifest,
               "the manifest [beside FILE: NAME.manifest.json]"),
    CLI_OPTION('k', "key-file", "FILE", CLI_STRING, key_arg.file,
               "the key: 64 hex digits or 32 bytes; '-' is standard input [$TBPKG_KEY_FILE]"),
    CLI_OPTION(0, "key-hex", "HEX", CLI_KEY_HEX, key_arg,
               "the key itself (discouraged: it stays in the shell's history)"),
    CLI_OPTION('o', "out", "OUTPUT", CLI_DIR_NAME, out,
               "file to write, directory for an asset with a file table, or '-' for standard output"),
    CLI_OPTION('t', "threads", "N", CLI_UINT, threads, "workers [one for each CPU]", .min = 1,
               .max = TBENC_THREADS_MAX),
    CLI_OPTION('f', "force", NULL, CLI_FLAG, force, "replace an existing output"),
    CLI_OPTION(0, "lenient", NULL, CLI_BITS, flags,
               "accept what the first writers of tbenc/v1 may have left: any chunk size, reserved bytes that "
               "are set",
               .max = TBENC_LENIENT),
    CLI_COMMON,
};

static int check_options(const struct job *j)
{
    const struct cli *c = &j->cli;

    if (!j->out || !*j->out)
        return cli_usage(c, "--out is missing: name the file or directory to write");
    if (j->cli.json && strcmp(j->out, "-") == 0)
        return cli_usage(c, "--json and --out=- both want standard output");
    return cli_check_inputs(c, j->in, j->manifest, &j->key_arg);
}

static int parse(struct job *j, int argc, char **argv)
{
    if (cli_parse(&j->cli, j, argc, argv) != CLI_OK)
        return CLI_STOP;
    j->cli.rc = cli_positional(&j->cli, argc, argv, &j->in);
    if (j->cli.rc == CLI_OK)
        j->cli.rc = check_options(j);
    return cli_ready(&j->cli);
}

/* -- opening ------------------------------------------------------------------------------------------------------- */

static struct tbenc_open_params open_params(struct job *j)
{
    return (struct tbenc_open_params){
        .manifest = j->asset.manifest,
        .key = j->key.b,
        .threads = (unsigned)j->threads,
        .flags = j->flags | TBENC_CHECK_SHA256,
        .progress = cli_progress,
        .progress_ctx = &j->progress,
    };
}

static bool seekable(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* Errors of writing belong to the output, all others to the ciphertext. */
static int open_failed(const struct job *j, int r, const struct tbenc_error *e)
{
    if (r == -ENOSPC || r == -EDQUOT || r == -EPIPE || r == -EFBIG)
        return tbpkg_fail_errno(strcmp(j->out, "-") == 0 ? "standard output" : j->out, r);
    return asset_fail(strcmp(j->asset.path, "-") == 0 ? "ciphertext on standard input" : j->asset.path, r, e);
}

static int open_into(struct job *j, const int *fds, size_t n)
{
    struct tbenc_open_params p = open_params(j);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    int r;

    if (seekable(j->asset.fd))
        r = tbenc_open_files(&p, j->asset.fd, fds, n, &e);
    else
        r = tbenc_open_stream(&p, j->asset.fd, fds[0], &e);
    return r < 0 ? open_failed(j, r, &e) : CLI_OK;
}

static int to_directory(struct job *j)
{
    _cleanup_out_tree_ struct out_tree t = {0};
    int rc;

    if (!seekable(j->asset.fd))
        return tbpkg_fail(j->asset.path, "is a stream, and a directory is made from a file",
                          "store the ciphertext in a file first");
    rc = out_tree_check(j->out, j->asset.manifest, j->force);
    if (rc == CLI_OK)
        rc = out_tree_create(j->out, j->asset.manifest, &t);
    if (rc == CLI_OK)
        rc = open_into(j, t.fds, t.n);
    return rc == CLI_OK ? out_tree_commit(&t, j->asset.manifest, j->force) : rc;
}

static int to_file(struct job *j)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    struct stat st, in;
    int r, rc;

    if (lstat(j->out, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return tbpkg_fail(j->out, "is a directory, and this asset is one file", "name the file to write");
        if (!j->force)
            return tbpkg_fail(j->out, "exists already", "choose another name or say --force");
        if (stat(j->out, &st) == 0 && !S_ISREG(st.st_mode)) /* /dev/stdout, or a link to such a thing */
            return tbpkg_fail(j->out, "exists and is no regular file", "say --out=- for standard output");
        if (fstat(j->asset.fd, &in) == 0 && in.st_dev == st.st_dev && in.st_ino == st.st_ino)
            return tbpkg_fail(j->out, "is the ciphertext itself", "choose another name");
    }
    r = cli_newfile_open(&f, j->out, 0666);
    if (r < 0)
        return tbpkg_fail_errno(j->out, r);
    rc = open_into(j, &f.fd, 1);
    if (rc != CLI_OK)
        return rc;
    r = tb_newfile_commit(&f, j->force);
    if (r == -EEXIST)
        return tbpkg_fail(j->out, "appeared meanwhile", "choose another name or say --force");
    return r < 0 ? tbpkg_fail_errno(j->out, r) : CLI_OK;
}

/* A file is verified whole first, so that nothing of a bad one reaches the reader; a stream cannot be read twice. */
static int to_stdout(struct job *j)
{
    struct tbenc_open_params p = open_params(j);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    int r;

    if (j->asset.manifest->files)
        return tbpkg_fail(j->asset.manifest_path, "describes a directory, which standard output cannot take",
                          "name a directory with --out");
    if (seekable(j->asset.fd)) {
        j->progress = cli_progress_start(&j->cli, "Verifying", p.manifest->plaintext_bytes);
        r = tbenc_verify(&p, j->asset.fd, &e);
        if (r < 0)
            return open_failed(j, r, &e);
        cli_progress_finish(&j->progress, p.manifest->plaintext_bytes);
        if (lseek(j->asset.fd, 0, SEEK_SET) < 0)
            return tbpkg_fail_errno(j->asset.path, -errno);
        p.flags &= ~(unsigned)TBENC_CHECK_SHA256;
    }
    /* Its reader may pass pages on with splice() or tee() and look at them later: none that we use again. */
    p.flags |= TBENC_COPY_TO_PIPE;
    p.progress = NULL; /* standard output may be the terminal that a bar would be drawn on */
    r = tbenc_open_stream(&p, j->asset.fd, STDOUT_FILENO, &e);
    if (r == 0)
        return CLI_OK;
    tbpkg_warn("standard output: what was written so far is not verified; throw it away");
    return open_failed(j, r, &e);
}

/* -- main ---------------------------------------------------------------------------------------------------------- */

static int report(const struct job *j)
{
    const struct tbenc_manifest *m = j->asset.manifest;
    _cleanup_json_ cJSON *o = NULL;
    char size[32];

    tbpkg_note(&j->cli, "%s: %s in %zu file%s, verified",
               strcmp(j->out, "-") == 0 ? "standard output" : j->out,
               tb_bytes_format(m->plaintext_bytes, size, sizeof(size)), m->files ? m->n_files : 1,
               m->n_files > 1 ? "s" : "");
    if (!j->cli.json)
        return CLI_OK;
    o = cJSON_CreateObject();
    cJSON_AddStringToObject(o, "asset_id", m->asset_id);
    cJSON_AddStringToObject(o, "output", j->out);
    tb_json_add_uint(o, "plaintext_bytes", m->plaintext_bytes);
    tb_json_add_uint(o, "files", m->files ? m->n_files : 1);
    return cli_print_json(o);
}

static int run(struct job *j)
{
    bool is_stdout = strcmp(j->out, "-") == 0;
    int rc;

    rc = cli_key_arg_read(&j->cli, &j->key_arg, &j->key);
    if (rc == CLI_OK)
        rc = asset_open(j->in, j->manifest, j->flags, &j->asset);
    if (rc == CLI_OK && !is_stdout)
        rc = asset_check_space(j->out, j->asset.manifest->plaintext_bytes);
    if (rc != CLI_OK)
        return rc;
    if (is_stdout) {
        rc = to_stdout(j);
        return rc == CLI_OK ? report(j) : rc;
    }
    j->progress = cli_progress_start(&j->cli, "Decrypting", j->asset.manifest->plaintext_bytes);
    rc = j->asset.manifest->files ? to_directory(j) : to_file(j);
    if (rc != CLI_OK)
        return rc;
    cli_progress_finish(&j->progress, j->asset.manifest->plaintext_bytes);
    return report(j);
}

static int decrypt_main(int argc, char **argv)
{
    _cleanup_(job_clear) struct job j = {.cli = {.command = &tbpkg_decrypt}, .asset = ASSET_INIT};

    return parse(&j, argc, argv) == CLI_OK ? run(&j) : j.cli.rc;
}

const struct tbpkg_command tbpkg_decrypt = {
    .name = "decrypt",
    .summary = "open a .tbenc again",
    .synopsis = "--out=OUTPUT [OPTION]... [FILE]",
    .about =
        "Open an encrypted .tbenc file with its manifest and its key.\n"
        "\n"
        "Every chunk is authenticated, their order and number and the ciphertext's SHA-256 are checked;\n"
        "the output appears under its name only when all of that has passed.\n",
    .options = options,
    .run = decrypt_main,
};
