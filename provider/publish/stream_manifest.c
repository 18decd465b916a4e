/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/publish/stream_manifest.h"

#include <errno.h>
#include <string.h>

#include "common/hex.h"
#include "provider/cli/interrupt.h"

int stream_manifest_take(struct asset_stream *s, const char *text, size_t len)
{
    struct asset_store *st = &s->store;

    tb_hex_encode(s->seal.result->sha256_ciphertext, TBENC_SHA256_BYTES, st->ct.sha256);
    st->mf.size = len;
    return store_sha256(text, len, st->mf.sha256) < 0 ? tbpkg_fail_errno(s->seal.manifest_path, -EIO)
                                                      : CLI_OK;
}

/* Without its signature. Heap; NULL for what is no manifest. */
static char *manifest_unsigned(const char *text, size_t *ret_len)
{
    _cleanup_free_ char *sig = NULL;
    char *bare = NULL;
    struct tbenc_error e;

    (void)tbenc_signature_split(text, strlen(text), &bare, ret_len, &sig, &e);
    return bare;
}

bool stream_manifest_same(const struct asset_stream *s, const char *text)
{
    size_t len;
    _cleanup_free_ char *had = s->journal.manifest ? manifest_unsigned(s->journal.manifest, &len) : NULL;

    return had && strcmp(had, text) == 0;
}

int stream_manifest_keep(struct asset_stream *s, char *text, size_t len)
{
    int rc = stream_manifest_take(s, text, len);

    if (rc == CLI_OK)
        rc = journal_sealed(&s->journal, text, s->source);
    if (s->store.mf.there == BLOB_SAME) /* as the one before */
        s->store.mf.there = BLOB_OTHER;
    tb_freep(&s->journal.manifest);
    s->journal.manifest = text;
    return rc;
}

int stream_manifest_adopt(struct asset_stream *s)
{
    _cleanup_free_ char *text = NULL, *bare = NULL;
    size_t len, bare_len;

    if (!s->complete || !s->journal.manifest ||
        tb_read_file(s->seal.manifest_path, TBENC_MANIFEST_MAX, &text, &len) < 0 || strlen(text) != len ||
        strcmp(text, s->journal.manifest) == 0)
        return CLI_OK;
    bare = manifest_unsigned(text, &bare_len);
    if (!bare || !stream_manifest_same(s, bare))
        return CLI_OK;
    s->store.signed_anew = true;
    tb_freep(&s->journal.manifest);
    s->journal.manifest = TAKE_PTR(text);
    return journal_sealed(&s->journal, s->journal.manifest, s->journal.source);
}

int stream_manifest_sign(struct asset_stream *s)
{
    const struct signer *signer = &s->seal.signer;
    const char *had = s->journal.manifest;
    _cleanup_free_ char *text = NULL;
    size_t len;

    if (!signer_signs(signer) || signer_signed(signer, had, strlen(had)))
        return CLI_OK;
    text = manifest_unsigned(had, &len);
    if (!text)
        return tbpkg_fail_errno(s->journal.path, -ENOMEM);
    if (signer_sign(signer, s->seal.asset_id, s->seal.manifest_path, &text, &len) != CLI_OK)
        return CLI_FAILED;
    return stream_manifest_keep(s, TAKE_PTR(text), len);
}

static bool manifest_is_signed(const char *text)
{
    struct tbenc_signature sig;
    struct tbenc_error e;

    return tbenc_signature_look(text, strlen(text), &sig, &e) == 0 && sig.present;
}

int stream_manifest_write(struct asset_stream *s)
{
    const char *text = s->journal.manifest;
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    int r;

    /* Of a text that an earlier run signed it stays what it was; of one that nobody did none may stay. */
    if ((signer_signs(&s->seal.signer) || !manifest_is_signed(text)) &&
        signer_put_detached(&s->seal.signer, s->seal.asset_id, s->seal.manifest_path, text, strlen(text)) !=
            CLI_OK)
        return CLI_FAILED;
    r = cli_newfile_open(&f, s->seal.manifest_path, 0666);
    if (r == 0)
        r = tb_write_full(f.fd, text, strlen(text));
    cli_signals_block();
    if (r == 0)
        r = tb_newfile_commit(&f, true);
    cli_temp_forget_all();
    cli_signals_unblock();
    return r < 0 ? tbpkg_fail_errno(s->seal.manifest_path, r) : CLI_OK;
}
