/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/asset/seal.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "common/secret.h"
#include "common/units.h"
#include "provider/asset/asset.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/key_arg.h"

void asset_seal_clear(struct asset_seal *s)
{
    source_options_clear(&s->how);
    asset_base_clear(&s->under);
    source_close(&s->source);
    tb_newfile_abort(&s->ct);
    tb_newfile_abort(&s->mf);
    key_out_clear(&s->key);
    cli_temp_forget_all();
    tb_freep(&s->out_path);
    tb_freep(&s->manifest_path);
    tb_freep(&s->text);
    signer_clear(&s->signer);
    s->result = tbenc_manifest_free(s->result);
}

/* -- outputs ----------------------------------------------------------------------------------- */

/* The name in the manifest. */
static const char *seal_weights_name(const struct asset_seal *s)
{
    const char *slash = strrchr(s->out_path, '/');

    if (s->to_stdout)
        return ASSET_DEFAULT_NAME;
    return slash ? slash + 1 : s->out_path;
}

static int seal_name_outputs(struct asset_seal *s)
{
    struct stat st;
    size_t n = strlen(s->out);
    bool dir = !s->to_stdout && (s->out[n - 1] == '/' || (stat(s->out, &st) == 0 && S_ISDIR(st.st_mode)));
    const char *base;
    int r;

    if (dir) {
        r = tb_mkdir_p(s->out, 0777);
        if (r < 0)
            return tbpkg_fail_errno(s->out, r);
    }
    s->out_path = dir ? tb_strf("%s%s" ASSET_DEFAULT_NAME, s->out, s->out[n - 1] == '/' ? "" : "/")
                      : strdup(s->to_stdout ? "standard output" : s->out);
    if (!s->out_path)
        return tbpkg_fail_errno(s->out, -ENOMEM);
    s->manifest_path = s->manifest ? strdup(s->manifest) : asset_manifest_name(s->out_path);
    if (!s->manifest_path)
        return tbpkg_fail_errno(s->out, -ENOMEM);
    base = seal_weights_name(s);
    if (strlen(base) > TBENC_NAME_MAX || !tbenc_path_valid(base))
        return tbpkg_fail(s->out_path, "a manifest cannot hold this file name",
                          "use UTF-8 without control characters");
    return CLI_OK;
}

/* One output: its directory exists, the name is free or may be replaced, and the input is not under it. */
static int seal_check_output(const struct asset_seal *s, const char *option, const char *path, bool replace)
{
    struct stat st;
    int rc;

    if (lstat(path, &st) == 0) {
        if (!replace)
            return tbpkg_fail(path, "exists already", "choose another name or use --force");
        if (asset_key_is_file(path))
            return tbpkg_fail(path, "holds a key and is never replaced", "choose another name");
        if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) /* /dev/null, or a link to such a thing */
            return tbpkg_fail(path, "exists and is not a regular file", "choose another name");
    }
    rc = asset_check_space(path, 0); /* also says when the directory is missing */
    return rc == CLI_OK ? source_check_output(&s->source, option, path) : rc;
}

static int seal_same_name(const char *a, const char *b)
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

static int seal_check_outputs(struct asset_seal *s, const struct tb_key *key)
{
    const char *key_path;
    int rc = seal_name_outputs(s);

    if (rc == CLI_OK && !s->base)
        rc = key_out_prepare(&s->key, s->key_out, s->to_stdout ? s->manifest_path : s->out_path, s->asset_id,
                             key);
    if (rc != CLI_OK)
        return rc;
    key_path = !s->base && key_out_is_file(&s->key) ? s->key.path : NULL;
    if (seal_same_name(s->out_path, s->manifest_path) ||
        (key_path && (seal_same_name(key_path, s->manifest_path) || seal_same_name(key_path, s->out_path))))
        return cli_usage(s->cli, "--out, --manifest and --key-out must be different files");
    if (!s->to_stdout)
        rc = seal_check_output(s, "--out", s->out_path, s->force);
    if (rc == CLI_OK)
        rc = seal_check_output(s, "--manifest", s->manifest_path, s->force);
    if (rc == CLI_OK && key_path)
        rc = seal_check_output(s, "--key-out", key_path, false);
    if (rc != CLI_OK || s->to_stdout)
        return rc;
    return asset_check_space(s->out_path, source_ciphertext_bytes(&s->source, s->chunk_bytes));
}

static int seal_create_outputs(struct asset_seal *s)
{
    int r = s->to_stdout ? 0 : cli_newfile_open(&s->ct, s->out_path, 0666);

    if (r < 0)
        return tbpkg_fail_errno(s->out_path, r);
    r = cli_newfile_open(&s->mf, s->manifest_path, 0666);
    if (r < 0)
        return tbpkg_fail_errno(s->manifest_path, r);
    return s->base ? CLI_OK : key_out_create(&s->key);
}

/* -- sealing ----------------------------------------------------------------------------------- */

static int seal_source(struct asset_seal *s, const struct tb_key *key)
{
    uint64_t total = s->source.bytes == UINT64_MAX ? 0 : s->source.bytes;
    struct cli_progress progress = cli_progress_start(s->cli->quiet, "Encrypting", total);
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    struct tbenc_seal_params p = {
        .key = key->b,
        .chunk_bytes = (uint32_t)s->chunk_bytes,
        .threads = (unsigned)s->threads,
        .asset_id = s->asset_id,
        .weights_filename = seal_weights_name(s),
        .allow_finetune = !s->no_finetune,
        .progress = cli_progress,
        .progress_ctx = &progress,
        .base = s->base ? &s->under.stands : NULL,
    };
    const struct tbenc_input *in = s->base ? s->under.own : source_inputs(&s->source);
    uint64_t start = tb_now_monotonic_us();
    int r;

    r = tbenc_seal(&p, in, s->base ? s->under.n_own : source_count(&s->source), s->source.is_dir,
                   s->to_stdout ? STDOUT_FILENO : s->ct.fd, &s->result, &e);
    if (r == -ENOSPC || r == -EDQUOT || r == -EFBIG || r == -EPIPE)
        return tbpkg_fail_errno(s->out_path, r);
    if (r == -EBADMSG)
        return tbpkg_fail(s->in, e.message, "encrypt a copy that nothing writes to");
    if (r < 0)
        return asset_fail(s->in, r, &e);
    if (s->result->plaintext_bytes == 0 && !s->base)
        return tbpkg_fail(s->in, "is empty", "give a file with data");
    cli_progress_finish(&progress, s->result->plaintext_bytes);
    s->seconds = (double)(tb_now_monotonic_us() - start) / 1e6;
    return source_check_unchanged(&s->source);
}

static int seal_write_manifest(struct asset_seal *s)
{
    int r = tbenc_manifest_format(s->result, &s->text, &s->text_len);

    if (r < 0)
        return tbpkg_fail_errno(s->manifest_path, r);
    if (signer_sign(&s->signer, s->asset_id, s->manifest_path, &s->text, &s->text_len) != CLI_OK)
        return CLI_FAILED;
    r = tb_write_full(s->mf.fd, s->text, s->text_len);
    if (r == 0 && fsync(s->mf.fd) < 0)
        r = -errno;
    return r < 0 ? tbpkg_fail_errno(s->manifest_path, r) : CLI_OK;
}

static int seal_commit(struct tb_newfile *f, const char *path, bool replace)
{
    int r = tb_newfile_commit(f, replace);

    if (r == -EEXIST)
        return tbpkg_fail(path, "was created by another process meanwhile",
                          "choose another name or use --force");
    return r < 0 ? tbpkg_fail_errno(path, r) : CLI_OK;
}

/* All names or none: what took its name before a failure gives it back (a file replaced by --force is gone,
 * though). The key goes last then, and stays if the ciphertext would not go. */
static void seal_give_back(struct asset_seal *s)
{
    bool has_name = !s->ct.tmp_path;

    if (s->to_stdout) /* what went out may be somewhere: the key stays */
        return;
    if (has_name && unlink(s->out_path) < 0 && errno != ENOENT)
        return;
    if (!s->base && key_out_is_file(&s->key) && !s->key.file.tmp_path)
        (void)unlink(s->key.path);
}

static int seal_take_names(struct asset_seal *s)
{
    int rc = CLI_OK;

    if (!s->to_stdout && fsync(s->ct.fd) < 0) /* long: while an interrupt can still stop us */
        return tbpkg_fail_errno(s->out_path, -errno);
    cli_signals_block();
    if (!s->to_stdout && !s->base)
        rc = key_out_commit(&s->key);
    if (rc == CLI_OK && !s->to_stdout)
        rc = seal_commit(&s->ct, s->out_path, s->force);
    if (rc == CLI_OK)
        rc = signer_put_detached(&s->signer, s->asset_id, s->manifest_path, s->text, s->text_len);
    if (rc == CLI_OK)
        rc = seal_commit(&s->mf, s->manifest_path, s->force);
    if (rc != CLI_OK)
        seal_give_back(s);
    cli_temp_forget_all();
    cli_signals_unblock();
    return rc;
}

/* The key is on disk under its name before what it seals goes anywhere. */
static int seal_put_key_first(struct asset_seal *s, const struct tb_key *key)
{
    int rc = key_out_write(&s->key, key);

    cli_signals_block();
    if (rc == CLI_OK)
        rc = key_out_commit(&s->key);
    cli_signals_unblock();
    return rc;
}

/* The overlay has its base's key: it was kept where it was put. */
static int seal_take_base(struct asset_seal *s, struct tb_key *key)
{
    uint64_t version;
    int rc = asset_base_parse(s->base, s->asset_id, &version);

    if (rc == CLI_OK)
        rc = asset_base_read(s->base_manifest, s->asset_id, version, &s->under);
    if (rc == CLI_OK)
        rc = cli_key_arg_read(s->cli, s->base_key, key);
    if (rc == CLI_OK)
        rc = asset_key_check(s->under.manifest, key, cli_key_arg_name(s->base_key));
    if (rc == CLI_OK)
        rc = asset_base_compare(&s->under, &s->source, s->cli->quiet);
    if (rc != CLI_OK)
        return rc;
    s->chunk_bytes = s->under.manifest->chunk_bytes;
    s->key.path = strdup(cli_key_arg_name(s->base_key));
    return s->key.path ? asset_key_id(key, s->key.id) : tbpkg_fail_errno("key", -ENOMEM);
}

int asset_seal(struct asset_seal *s)
{
    _cleanup_key_ struct tb_key key;
    int r = tb_random(&key, sizeof(key)), rc;

    if (r < 0)
        return tbpkg_fail_errno("random key", r);
    s->to_stdout = strcmp(s->out, "-") == 0;
    rc = signer_open(&s->signer, &s->sign);
    if (rc == CLI_OK)
        rc = source_open(s->in, &s->how, &s->source);
    if (rc == CLI_OK && s->base)
        rc = seal_take_base(s, &key);
    if (rc == CLI_OK)
        rc = seal_check_outputs(s, &key);
    if (rc == CLI_OK)
        rc = seal_create_outputs(s);
    if (rc == CLI_OK && s->to_stdout && !s->base)
        rc = seal_put_key_first(s, &key);
    if (rc == CLI_OK)
        rc = seal_source(s, &key);
    if (rc == CLI_OK)
        rc = seal_write_manifest(s);
    if (rc == CLI_OK && !s->to_stdout && !s->base)
        rc = key_out_write(&s->key, &key);
    if (rc == CLI_OK)
        rc = cli_key_hold(&key);
    return rc == CLI_OK ? seal_take_names(s) : rc;
}
