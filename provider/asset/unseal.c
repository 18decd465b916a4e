/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/unseal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "provider/asset/key.h"
#include "provider/asset/out_tree.h"
#include "provider/asset/signer.h"
#include "provider/cli/interrupt.h"

void asset_unseal_clear(struct asset_unseal *u)
{
    tb_key_erase(&u->key);
    asset_clear(&u->asset);
    asset_clear(&u->under);
    u->tree = tbenc_manifest_free(u->tree);
    cli_temp_forget_all();
}

/* -- opening ----------------------------------------------------------------------------------- */

static struct tbenc_open_params unseal_open_params(struct asset_unseal *u)
{
    return (struct tbenc_open_params){
        .manifest = u->asset.manifest,
        .key = u->key.b,
        .threads = (unsigned)u->threads,
        .flags = u->flags | TBENC_CHECK_SHA256,
        .progress = cli_progress,
        .progress_ctx = &u->progress,
    };
}

static bool unseal_seekable(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

/* Errors of writing belong to the output, all others to the ciphertext. */
static int unseal_open_failed(const struct asset_unseal *u, int r, const struct tbenc_error *e)
{
    if (r == -ENOSPC || r == -EDQUOT || r == -EPIPE || r == -EFBIG)
        return tbpkg_fail_errno(strcmp(u->out, "-") == 0 ? "standard output" : u->out, r);
    return asset_fail(strcmp(u->asset.path, "-") == 0 ? "ciphertext on standard input" : u->asset.path, r, e);
}

static int unseal_open_into(struct asset_unseal *u, const int *fds, size_t n)
{
    struct tbenc_open_params p = unseal_open_params(u);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    int r;

    assert(n > 0);
    if (unseal_seekable(u->asset.fd))
        r = tbenc_open_files(&p, u->asset.fd, fds, n, &e);
    else
        r = tbenc_open_stream(&p, u->asset.fd, fds[0], &e);
    return r < 0 ? unseal_open_failed(u, r, &e) : CLI_OK;
}

/* Of two ciphertexts. */
static int unseal_open_overlay(struct asset_unseal *u, const int *fds)
{
    const struct tbenc_manifest *m = u->asset.manifest, *base = u->under.manifest;
    struct tbenc_open_params p = unseal_open_params(u);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    _cleanup_free_ int *dealt = calloc(m->n_files + base->n_files, sizeof(*dealt));
    int *under = dealt ? dealt + m->n_files : NULL;
    int r = dealt ? tbenc_tree_deal(m, base, u->tree, fds, dealt, under) : -ENOMEM;

    if (r < 0)
        return tbpkg_fail_errno(u->asset.path, r);
    r = tbenc_open_files(&p, u->asset.fd, dealt, m->n_files, &e);
    if (r < 0)
        return unseal_open_failed(u, r, &e);
    p.manifest = base;
    r = tbenc_open_files(&p, u->under.fd, under, base->n_files, &e);
    return r < 0 ? asset_fail(u->under.path, r, &e) : CLI_OK;
}

static int unseal_to_directory(struct asset_unseal *u)
{
    _cleanup_out_tree_ struct out_tree t = {0};
    int rc;

    if (!unseal_seekable(u->asset.fd) || (u->under.manifest && !unseal_seekable(u->under.fd)))
        return tbpkg_fail(u->asset.path, "is a stream, and a directory is made from a file",
                          "store the ciphertext in a file first");
    rc = out_tree_check(u->out, u->tree, u->force);
    if (rc == CLI_OK)
        rc = out_tree_create(u->out, u->tree, &t);
    if (rc == CLI_OK)
        rc = u->under.manifest ? unseal_open_overlay(u, t.fds) : unseal_open_into(u, t.fds, t.n);
    return rc == CLI_OK ? out_tree_commit(&t, u->tree, u->force) : rc;
}

static int unseal_to_file(struct asset_unseal *u)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    struct stat st, in;
    int r, rc;

    if (lstat(u->out, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return tbpkg_fail(u->out, "is a directory, and this asset is one file", "name the file to write");
        if (!u->force)
            return tbpkg_fail(u->out, "exists already", "choose another name or use --force");
        if (stat(u->out, &st) == 0 && !S_ISREG(st.st_mode)) /* /dev/stdout, or a link to such a thing */
            return tbpkg_fail(u->out, "exists and is not a regular file", "use --out=- for standard output");
        if (fstat(u->asset.fd, &in) == 0 && in.st_dev == st.st_dev && in.st_ino == st.st_ino)
            return tbpkg_fail(u->out, "is the ciphertext itself", "choose another name");
        if (asset_key_is_file(u->out))
            return tbpkg_fail(u->out, "holds a key and is never replaced", "choose another name");
    }
    r = cli_newfile_open(&f, u->out, 0666);
    if (r < 0)
        return tbpkg_fail_errno(u->out, r);
    rc = unseal_open_into(u, &f.fd, 1);
    if (rc != CLI_OK)
        return rc;
    r = tb_newfile_commit(&f, u->force);
    if (r == -EEXIST)
        return tbpkg_fail(u->out, "was created by another process meanwhile",
                          "choose another name or use --force");
    return r < 0 ? tbpkg_fail_errno(u->out, r) : CLI_OK;
}

/* A file is verified whole first, so that nothing of a bad one reaches the reader; a stream cannot be read
 * twice. */
static int unseal_to_stdout(struct asset_unseal *u)
{
    struct tbenc_open_params p = unseal_open_params(u);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    int r;

    if (u->asset.manifest->files)
        return tbpkg_fail(u->asset.manifest_path, "describes a directory, which standard output cannot take",
                          "name a directory with --out");
    if (unseal_seekable(u->asset.fd)) {
        u->progress = cli_progress_start(u->cli->quiet, "Verifying", p.manifest->plaintext_bytes);
        r = tbenc_verify(&p, u->asset.fd, &e);
        if (r < 0)
            return unseal_open_failed(u, r, &e);
        cli_progress_finish(&u->progress, p.manifest->plaintext_bytes);
        if (lseek(u->asset.fd, 0, SEEK_SET) < 0)
            return tbpkg_fail_errno(u->asset.path, -errno);
        p.flags &= ~(unsigned)TBENC_CHECK_SHA256;
    }
    /* Its reader may pass pages on with splice() or tee() and look at them later: none that we use again. */
    p.flags |= TBENC_COPY_TO_PIPE;
    p.progress = NULL; /* standard output may be the terminal that a bar would be drawn on */
    r = tbenc_open_stream(&p, u->asset.fd, STDOUT_FILENO, &e);
    if (r == 0)
        return CLI_OK;
    tbpkg_warn("standard output: what was written so far is not verified; throw it away");
    return unseal_open_failed(u, r, &e);
}

int asset_unseal(struct asset_unseal *u)
{
    bool is_stdout = strcmp(u->out, "-") == 0;
    int rc;

    rc = cli_key_arg_read(u->cli, u->key_arg, &u->key);
    if (rc == CLI_OK && u->provider_key) {
        rc = provider_keys_read(u->provider_key, &u->trusted);
        u->asset.trusted = &u->trusted;
    }
    if (rc == CLI_OK)
        rc = asset_open(u->in, u->manifest, u->flags | TBENC_OVERLAY, &u->asset);
    if (rc == CLI_OK)
        rc = asset_key_check(u->asset.manifest, &u->key, cli_key_arg_name(u->key_arg));
    if (rc == CLI_OK && u->base && !u->asset.manifest->base)
        rc = tbpkg_fail(u->asset.manifest_path, "is no overlay's", "leave --base out");
    if (rc == CLI_OK && u->asset.manifest->base)
        rc = asset_open_base(&u->asset, u->base, &u->under);
    if (rc == CLI_OK && tbenc_manifest_tree(u->asset.manifest, &u->tree) < 0)
        rc = tbpkg_fail_errno(u->asset.path, -ENOMEM);
    if (rc == CLI_OK && !is_stdout)
        rc = asset_check_space(u->out, u->tree->plaintext_bytes);
    if (rc != CLI_OK)
        return rc;
    if (is_stdout)
        return unseal_to_stdout(u);
    u->progress = cli_progress_start(u->cli->quiet, "Decrypting", u->tree->plaintext_bytes);
    rc = u->asset.manifest->files ? unseal_to_directory(u) : unseal_to_file(u);
    if (rc != CLI_OK)
        return rc;
    cli_progress_finish(&u->progress, u->tree->plaintext_bytes);
    return CLI_OK;
}
