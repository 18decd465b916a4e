/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/stream.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/hex.h"
#include "common/units.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/key_arg.h"
#include "provider/publish/state.h"
#include "provider/publish/stream_manifest.h"
#include "provider/publish/stream_model.h"

#define STREAM_ANEW (-1) /* beside exit codes: what the journal says cannot be used */

void asset_stream_clear(struct asset_stream *s)
{
    tb_erase(&s->key, sizeof(s->key));
    asset_seal_clear(&s->seal);
    store_clear(&s->store);
    journal_clear(&s->journal);
}

/* -- key and journal --------------------------------------------------------------------------- */

/* Gets the key that the journal names. STREAM_ANEW: it is not there, and nothing that may exist needs it. */
static int stream_find_key(struct asset_stream *s)
{
    const struct journal *j = &s->journal;
    const char *option = s->origin ? "--new-key-file" : "--key-file";
    char id[ASSET_KEY_ID_HEX + 1];
    int r;

    if (s->has_key) /* made by this run */
        return CLI_OK;
    if (s->key_file) {
        const struct cli_key_arg arg = {.file = s->key_file};
        int rc = cli_key_arg_read(s->seal.cli, &arg, &s->key);

        if (rc != CLI_OK || asset_key_id(&s->key, id) != CLI_OK)
            return CLI_FAILED;
        s->has_key = strcmp(id, j->key_id) == 0;
        if (s->has_key)
            return CLI_OK;
        return tbpkg_failf(cli_key_arg_name(&arg),
                           "holds key %s, and the upload was begun with key %s; find that one", id,
                           j->key_id);
    }
    r = j->key_recipient ? -ENOENT : asset_key_read(j->key_file, &s->key);
    if (r < 0 && r != -ENOENT)
        return CLI_FAILED;
    s->has_key = r == 0 && asset_key_id(&s->key, id) == CLI_OK && strcmp(id, j->key_id) == 0;
    if (s->has_key)
        return CLI_OK;
    if (!s->complete && !j->commit_begun)
        return STREAM_ANEW;
    if (j->key_recipient)
        return tbpkg_failf(
            s->seal.asset_id,
            "key %s is needed; it is in %s, which only %s can decrypt; do that and give it with %s",
            j->key_id, j->key_file, j->key_recipient, option);
    return tbpkg_failf(
        s->seal.asset_id,
        "key %s is needed, and it is not in %s, where it was put; give it with %s, or move it back",
        j->key_id, j->key_file, option);
}

static bool stream_journal_fits(const struct asset_stream *s)
{
    const struct journal *j = &s->journal;

    return j->valid && strcmp(j->asset_id, s->seal.asset_id) == 0 && j->chunk_bytes == s->seal.chunk_bytes &&
           j->size == s->store.ct.size && strcmp(j->layout, s->layout) == 0;
}

static char *stream_destination(const struct asset_stream *s)
{
    return tb_strf("%s/%s", s->store.service.url, s->store.ct.path);
}

/* An interrupt finds either no file of the key or all of it. */
static int stream_put_key(struct asset_stream *s)
{
    struct asset_seal *w = &s->seal;
    struct key_out fresh = KEY_OUT_INIT;
    int rc;

    key_out_clear(&w->key);
    w->key = fresh;
    if (tb_random(&s->key, sizeof(s->key)) < 0)
        return tbpkg_fail_errno("random key", -EIO);
    rc = key_out_prepare(&w->key, w->key_out, s->origin ? NULL : w->manifest_path, w->asset_id, &s->key);
    if (rc == CLI_OK && key_out_is_file(&w->key))
        rc = stream_model_check_output(s, "--key-out", w->key.path);
    if (rc == CLI_OK)
        rc = key_out_create(&w->key);
    if (rc == CLI_OK)
        rc = key_out_write(&w->key, &s->key);
    if (rc == CLI_OK) {
        cli_signals_block();
        rc = key_out_commit(&w->key);
        cli_temp_forget_all();
        cli_signals_unblock();
    }
    s->has_key = rc == CLI_OK;
    return rc;
}

/* What the report says of the key, whether it was made by this run or before. */
static int stream_take_key_report(struct asset_stream *s)
{
    struct key_out *k = &s->seal.key;

    snprintf(k->id, sizeof(k->id), "%s", s->journal.key_id);
    tb_freep(&k->path);
    k->path = strdup(s->journal.key_file);
    k->recipient = s->journal.key_recipient;
    if (!s->seal.manifest && s->origin) {
        tb_freep(&s->seal.manifest_path);
        s->seal.manifest_path = tb_strf("%s-%s.manifest.json", s->seal.asset_id, k->id);
    }
    return k->path && s->seal.manifest_path ? CLI_OK : tbpkg_fail_errno("key", -ENOMEM);
}

static int stream_begin(struct asset_stream *s)
{
    struct journal *j = &s->journal;
    uint32_t block = blob_block_bytes_for(s->store.ct.size, (uint32_t)s->store.block_bytes);
    int rc;

    if (s->complete && !s->seal.force)
        return tbpkg_fail(s->seal.manifest_path, "exists already", "choose another name or use --force");
    if (block == 0)
        return tbpkg_fail(s->seal.in, "is larger than 50000 blocks of 256 MiB", NULL);
    rc = stream_put_key(s);
    if (rc == CLI_OK && (s->origin || (s->store.ct.there == BLOB_OTHER && !s->store.overwrite)))
        rc = store_move_aside(&s->store, s->seal.key.id); /* of a key of just now: nothing is there */
    if (rc != CLI_OK)
        return rc;
    tb_freep(&j->key_file);
    tb_freep(&j->key_recipient);
    j->key_file = key_out_is_file(&s->seal.key) ? realpath(s->seal.key.path, NULL) /* not of this directory */
                                                : strdup(s->seal.key.path);
    j->key_recipient = s->seal.key.recipient ? strdup(s->seal.key.recipient) : NULL;
    tb_freep(&j->destination);
    j->destination = stream_destination(s);
    tb_freep(&j->origin);
    j->origin = s->origin ? strdup(s->origin->name) : NULL;
    if (!j->destination || !j->key_file || (s->seal.key.recipient && !j->key_recipient) ||
        (s->origin && !j->origin))
        return tbpkg_fail_errno(s->seal.key.path, -ENOMEM);
    if (tb_random(j->nonce_prefix, sizeof(j->nonce_prefix)) < 0)
        return tbpkg_fail_errno("random nonce", -EIO);
    snprintf(j->asset_id, sizeof(j->asset_id), "%s", s->seal.asset_id);
    snprintf(j->key_id, sizeof(j->key_id), "%s", s->seal.key.id);
    snprintf(j->layout, sizeof(j->layout), "%s", s->layout);
    j->chunk_bytes = (uint32_t)s->seal.chunk_bytes;
    j->block_bytes = block;
    j->size = s->store.ct.size;
    rc = stream_take_key_report(s);
    return rc == CLI_OK ? journal_create(j) : rc;
}

/* -- sealing and sending ----------------------------------------------------------------------- */

struct stream_run {
    struct asset_stream *s;
    struct blob_feed *feed;
    struct tbenc_error error;
    int seal_rc;
    size_t differs; /* the block that is not what was recorded */
    int journal_rc;
};

static int stream_on_ciphertext(void *ctx, const void *buf, size_t n)
{
    return blob_feed_write(((struct stream_run *)ctx)->feed, buf, n);
}

static int stream_feed(void *ctx, struct blob_feed *feed)
{
    struct stream_run *run = ctx;
    struct asset_seal *w = &run->s->seal;
    const struct tbenc_seal_params p = {
        .key = run->s->key.b,
        .chunk_bytes = (uint32_t)w->chunk_bytes,
        .threads = (unsigned)w->threads,
        .nonce_prefix = run->s->journal.nonce_prefix,
        .asset_id = w->asset_id,
        .weights_filename = ASSET_DEFAULT_NAME,
        .allow_finetune = !w->no_finetune,
        .write = stream_on_ciphertext,
        .write_ctx = run,
    };

    run->feed = feed;
    run->seal_rc = stream_model_start(run->s);
    if (run->seal_rc == 0)
        run->seal_rc = tbenc_seal(&p, stream_model_inputs(run->s), stream_model_count(run->s),
                                  stream_model_is_dir(run->s), -1, &w->result, &run->error);
    return run->seal_rc;
}

static int stream_admit(void *ctx, const struct blob_block *const *blocks, size_t n)
{
    struct stream_run *run = ctx;

    run->journal_rc = journal_admit(&run->s->journal, blocks, n, &run->differs);
    return run->journal_rc;
}

static int stream_fail_sending(const struct asset_stream *s, const struct stream_run *run, int r,
                               const struct blob_fault *fault)
{
    if (run->journal_rc < 0)
        return tbpkg_fail_errno(s->journal.path, run->journal_rc);
    if (run->seal_rc == -EBADMSG)
        return tbpkg_fail(s->seal.in, run->error.message, "publish a copy that nothing writes to");
    if (run->seal_rc < 0 && run->seal_rc != -ECANCELED)
        return asset_fail(s->seal.in, run->seal_rc, &run->error);
    return tbpkg_fail_as(fault->rc, s->store.ct.path, fault->reason, fault->remedy[0] ? fault->remedy : NULL);
}

/* All is sealed: what the manifest says, into journal and store. */
static int stream_finish_sealing(struct asset_stream *s)
{
    _cleanup_free_ char *text = NULL;
    bool same;
    size_t len;
    int r, rc = stream_model_check(s);

    if (rc != CLI_OK)
        return rc;
    r = tbenc_manifest_format(s->seal.result, &text, &len);
    if (r < 0)
        return tbpkg_fail_errno(s->seal.manifest_path, r);
    same = stream_manifest_same(s, text);
    if ((s->complete || s->store.ct.there == BLOB_SAME) && !same)
        return tbpkg_fail(s->seal.in,
                          "makes another manifest than the asset has: names or permissions changed",
                          "restore them, or publish it as a new asset");
    if (!same)
        return stream_manifest_keep(s, TAKE_PTR(text), len);
    rc = stream_manifest_take(s, s->journal.manifest, strlen(s->journal.manifest));
    return rc == CLI_OK && strcmp(s->journal.source, s->source) != 0
               ? journal_sealed_again(&s->journal, s->source)
               : rc;
}

static int stream_commit(struct asset_stream *s, char (*ids)[BLOB_ID_CHARS + 1], size_t n)
{
    int rc = journal_commit(&s->journal);

    return rc == CLI_OK ? store_commit(&s->store, ids, n, -1) : rc;
}

static int stream_seal_and_send(struct asset_stream *s, const struct blob_staged_set *staged)
{
    _cleanup_upload_result_ struct blob_upload_result up = {0};
    struct stream_run run = {.s = s, .error = {.chunk = TBENC_NO_CHUNK}};
    struct blob_upload u = {
        .block_bytes = s->journal.block_bytes,
        .session = s->journal.key_id,
        .staged = staged,
        .only_compare = s->store.ct.there == BLOB_SAME,
        .feed = stream_feed,
        .admit = stream_admit,
        .feed_ctx = &run,
    };
    uint64_t start = tb_now_monotonic_us();
    struct blob_fault fault;
    int r, rc;

    s->seal.result = tbenc_manifest_free(s->seal.result);
    r = store_send_blocks(&s->store, &u, &up, &fault);
    rc = stream_model_end(s);
    if (rc != CLI_OK && r != -ESTALE)
        return rc;
    if (r == -ESTALE && !s->complete) {
        tbpkg_note(s->seal.cli->quiet,
                   "The model is not what it was when this upload was begun (block %zu differs): starting "
                   "again under "
                   "a new key.",
                   run.differs);
        return STREAM_ANEW;
    }
    if (r == -ESTALE)
        return tbpkg_failf(
            s->seal.in, "is not what asset '%s' was made of (block %zu differs); publish it as a new asset",
            s->seal.asset_id, run.differs);
    if (r < 0)
        return stream_fail_sending(s, &run, r, &fault);
    s->seal.seconds = (double)(tb_now_monotonic_us() - start) / 1e6;
    rc = stream_finish_sealing(s);
    return rc == CLI_OK && !u.only_compare ? stream_commit(s, up.ids, up.n_blocks) : rc;
}

/* -- a run that got further -------------------------------------------------------------------- */

/* What is known when all was sealed before. *ret_sealed: from the files as they are now. */
static int stream_take_sealed(struct asset_stream *s, bool *ret_sealed)
{
    const struct journal *j = &s->journal;
    struct tbenc_error e = {.chunk = TBENC_NO_CHUNK};
    size_t len;
    int r;

    *ret_sealed = j->manifest && strcmp(j->source, s->source) == 0;
    snprintf(s->store.ct.sha256, sizeof(s->store.ct.sha256), "not known yet");
    if (!j->manifest)
        return CLI_OK;
    if (stream_manifest_adopt(s) != CLI_OK)
        return CLI_FAILED;
    len = strlen(j->manifest);
    r = tbenc_manifest_parse(j->manifest, len, 0, &s->seal.result, &e);
    if (r < 0)
        return asset_fail(j->path, r, &e);
    return stream_manifest_take(s, j->manifest, len);
}

/* -- the whole --------------------------------------------------------------------------------- */

static int stream_send_ciphertext(struct asset_stream *s, bool sealed)
{
    _cleanup_staged_set_ struct blob_staged_set staged = {0}, committed = {0};
    _cleanup_free_ char(*ids)[BLOB_ID_CHARS + 1] = calloc(s->journal.n_blocks, sizeof(*ids));
    int rc = ids ? blob_object_staged(&s->store.client, &s->store.ct, &staged, &committed) : CLI_FAILED;

    if (!ids)
        return tbpkg_fail_errno("Blob storage", -ENOMEM);
    if (rc != CLI_OK)
        return rc;
    if (!journal_knows(&s->journal, &staged) || !journal_knows(&s->journal, &committed)) {
        if (s->complete)
            return tbpkg_fail(s->journal.path, "is older than what was uploaded: it was copied or restored",
                              "publish the model as a new asset");
        tbpkg_note(s->seal.cli->quiet, "%s is older than what was uploaded: starting again under a new key.",
                   s->journal.path);
        return STREAM_ANEW;
    }
    sealed = sealed && journal_all_staged(&s->journal, &staged, ids);
    /* Nothing becomes a blob that no key opens. One for a recipient needs not be read for that. */
    rc = sealed && s->journal.key_recipient && access(s->journal.key_file, F_OK) == 0 ? CLI_OK
                                                                                      : stream_find_key(s);
    if (rc == CLI_OK && sealed) {
        s->store.ct.resumed = s->store.ct.size;
        return stream_commit(s, ids, s->journal.n_blocks);
    }
    if (rc == STREAM_ANEW)
        tbpkg_note(s->seal.cli->quiet,
                   "Key %s of the upload that was begun is not in %s: starting again under a new key.",
                   s->journal.key_id, s->journal.key_file);
    return rc == CLI_OK ? stream_seal_and_send(s, &staged) : rc;
}

static bool stream_journal_is_last_word(const struct asset_stream *s)
{
    const struct journal *j = &s->journal;
    _cleanup_free_ char *destination = stream_destination(s);

    if (destination && journal_is_last_word(j, destination))
        return true;
    if (j->is_copy)
        tbpkg_note(s->seal.cli->quiet,
                   "%s is a copy, and more may have been sent since: starting again under a new key.",
                   j->path);
    else
        tbpkg_note(s->seal.cli->quiet, "The upload was begun to %s: starting again under a new key.",
                   j->destination);
    return false;
}

/* Of another origin each block would differ: that is said at once. */
static bool stream_origin_is_same(const struct asset_stream *s)
{
    const char *had = s->journal.origin ? s->journal.origin : "files";
    const char *is = s->origin ? s->origin->name : "files";

    if (strcmp(had, is) == 0)
        return true;
    tbpkg_note(s->seal.cli->quiet, "What was begun is of %s: starting again under a new key.", had);
    return false;
}

/* With what the journal has. STREAM_ANEW: nothing of it can be used. */
static int stream_continue(struct asset_stream *s)
{
    bool sealed;
    int rc;

    if (!stream_journal_fits(s)) {
        if (s->journal.valid && !s->complete)
            tbpkg_note(
                s->seal.cli->quiet,
                "The model is not what it was when this upload was begun, or the chunk size is not: starting "
                "again under a new key.");
        return STREAM_ANEW;
    }
    if (!stream_origin_is_same(s))
        return STREAM_ANEW;
    if (store_follow_aside(&s->store, s->journal.destination, s->journal.key_id) != CLI_OK)
        return CLI_FAILED;
    if (!stream_journal_is_last_word(s))
        return STREAM_ANEW;
    rc = stream_take_sealed(s, &sealed);
    if (rc != CLI_OK || stream_take_key_report(s) != CLI_OK)
        return CLI_FAILED;
    rc = store_look(&s->store, -1);
    if (rc == CLI_OK && (s->store.ct.there != BLOB_SAME || !sealed))
        rc = stream_send_ciphertext(s, sealed);
    return rc;
}

static int stream_start_anew(struct asset_stream *s)
{
    bool sent_before = s->journal.valid;
    int rc;

    s->seal.result = tbenc_manifest_free(s->seal.result);
    snprintf(s->store.ct.sha256, sizeof(s->store.ct.sha256), "not known yet");
    s->store.mf.size = 0;
    s->seal.how.quiet = true; /* what is left out was said */
    stream_model_close(s);
    rc = stream_model_open(s); /* what was read is read again from its start */
    s->store.may_move = true;
    if (rc == CLI_OK)
        rc = store_look(&s->store, -1);
    if (rc == CLI_OK)
        rc = stream_begin(s);
    if (rc != CLI_OK)
        return rc;
    s->restarted = sent_before;
    s->complete = false;
    rc = stream_send_ciphertext(s, false);
    return rc == STREAM_ANEW
               ? tbpkg_fail(s->seal.in, "changes while it is read", "publish a copy that nothing writes to")
               : rc;
}

static int stream_finish(struct asset_stream *s)
{
    int rc = stream_manifest_sign(s);

    if (rc == CLI_OK && s->store.mf.there != BLOB_SAME)
        rc = store_send_manifest(&s->store, s->journal.manifest);
    if (rc == CLI_OK)
        rc = stream_manifest_write(s);
    if (rc == CLI_OK && s->origin)
        rc = stream_find_key(s);
    if (rc == STREAM_ANEW) /* a commit was begun: it would be reported */
        rc = tbpkg_fail_errno(s->journal.path, -EINVAL);
    if (rc == CLI_OK && s->has_key)
        rc = cli_key_hold(&s->key);
    return rc;
}

char *asset_stream_journal(const char *manifest, const char *asset_id)
{
    return manifest ? tb_strf("%s" JOURNAL_SUFFIX, manifest)
                    : tb_strf("%s.rotation" JOURNAL_SUFFIX, asset_id);
}

void asset_stream_done(struct asset_stream *s)
{
    if (s->journal.path)
        (void)unlink(s->journal.path);
}

static int stream_name_files(struct asset_stream *s)
{
    struct asset_seal *w = &s->seal;
    _cleanup_free_ char *journal = NULL;
    struct stat st;
    int rc;

    if (w->manifest || !s->origin)
        w->manifest_path = strdup(w->manifest ? w->manifest : ASSET_DEFAULT_MANIFEST);
    journal = asset_stream_journal(w->manifest_path, w->asset_id);
    if (!journal || (!w->manifest_path && !s->origin))
        return tbpkg_fail_errno("--manifest", -ENOMEM);
    if (w->manifest_path && asset_key_is_file(w->manifest_path))
        return tbpkg_fail(w->manifest_path, "holds a key and is never replaced", "choose another name");
    s->complete = w->manifest_path && lstat(w->manifest_path, &st) == 0;
    if (s->complete && !S_ISREG(st.st_mode))
        return tbpkg_fail(w->manifest_path, "exists and is not a regular file", "choose another name");
    if (asset_check_space(journal, 0) != CLI_OK)
        return CLI_FAILED;
    rc = journal_open(journal, &s->journal);
    if (rc == CLI_OK && s->journal.fd >= 0) { /* ours alone: what a killed run left of them */
        if (w->manifest_path)
            tb_newfile_sweep(w->manifest_path);
        tb_newfile_sweep(journal);
    }
    return rc;
}

/* What the journal is about: this asset; and the manifest that stands there, or, with --force, the one that
 * is being made in its place. */
static int stream_check_journal(struct asset_stream *s)
{
    const struct journal *j = &s->journal;
    char id[ASSET_KEY_ID_HEX + 1] = "";

    if (!j->valid)
        return CLI_OK;
    if (strcmp(j->asset_id, s->seal.asset_id) != 0 && !s->seal.force)
        return tbpkg_failf(j->path,
                           "is of the upload of asset '%s'; choose another --manifest, or use --force",
                           j->asset_id);
    if (!j->origin != !s->origin && !s->seal.force)
        return tbpkg_failf(j->path, "is of %s that was begun; finish that, or choose another --manifest",
                           j->origin ? "a rotation" : "an upload");
    if (s->complete)
        asset_key_id_in(s->seal.manifest_path, id);
    if (!*id || strcmp(id, j->key_id) == 0)
        return CLI_OK;
    if (!s->seal.force)
        return tbpkg_failf(s->seal.manifest_path,
                           "is of key %s, and another asset was begun in its place under key %s; use --force "
                           "to continue that",
                           id, j->key_id);
    s->complete = false;
    return CLI_OK;
}

int asset_stream(struct asset_stream *s)
{
    int rc = signer_open(&s->seal.signer, &s->seal.sign);

    if (rc == CLI_OK)
        rc = stream_name_files(s);
    if (rc == CLI_OK)
        rc = stream_check_journal(s);
    if (rc == CLI_OK)
        rc = stream_model_open(s);
    if (rc == CLI_OK)
        rc = store_connect(&s->store);
    if (rc != CLI_OK)
        return rc;
    rc = s->complete && s->seal.force ? STREAM_ANEW : stream_continue(s);
    if (rc == STREAM_ANEW)
        rc = stream_start_anew(s);
    return rc == CLI_OK ? stream_finish(s) : rc;
}
