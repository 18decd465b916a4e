/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing a model straight into Blob storage: the ciphertext is never on this machine's disk. Only the
 * manifest, the key and a journal (journal.h) are, so that an interrupted run is continued by the same
 * call. Order of events: the key is where it belongs, on disk; then the journal names it; then the first
 * block leaves; after the last one the manifest goes into the journal, the blocks become a blob, the
 * manifest a blob and then a file. */
#ifndef TBPKG_PUBLISH_STREAM_H
#define TBPKG_PUBLISH_STREAM_H

#include "provider/asset/seal.h"
#include "provider/publish/journal.h"
#include "provider/publish/store.h"

/* A model that is not on this machine: it comes while it is sealed, and is read again from its start where
 * an earlier run got no further. */
struct stream_origin {
    const char *name;                 /* for messages; the journal remembers it */
    const char *state;                /* names its contents */
    const struct tbenc_input *inputs; /* with descriptors from start() to end() */
    size_t n;
    bool is_dir;
    /* In the thread that seals. 0 or -ECANCELED. */
    int (*start)(void *ctx);
    /* After each start(), and also when it was not called. CLI_OK; or it was at fault, which is reported. */
    int (*end)(void *ctx);
    /* Is that what it is, to the byte? CLI_OK, or reported. */
    int (*check)(void *ctx, const struct tbenc_manifest *result);
    void *ctx;
};

struct asset_stream {
    /* what to do; of seal: asset_id, in, manifest, key_out, chunk_bytes, threads, no_finetune, force, how.
     * force makes a new asset where there is a complete one. */
    struct asset_seal seal; /* and what came of it, without out_path */
    /* NULL, or what is sealed instead of seal.in. Then the asset lies under the id of its key, its manifest
     * is ID-KEYID.manifest.json unless seal.manifest names it, and the key is held at the end in any case. */
    const struct stream_origin *origin;
    struct asset_store store;
    /* the key of an upload that was interrupted, when it is not where it was put; or NULL */
    const char *key_file;
    bool restarted; /* an earlier run's blocks could not be used */
    /* private */
    struct journal journal;
    struct tb_key key;
    bool has_key;
    bool complete; /* the manifest stood there before */
    char layout[65], source[65];
};
#define ASSET_STREAM_INIT                                                                                    \
    {                                                                                                        \
        .seal = ASSET_SEAL_INIT, .store = ASSET_STORE_INIT, .journal = JOURNAL_INIT                          \
    }

/* Holds the key for the commands that follow in this process (cli_key_hold()), when it was needed. CLI_OK;
 * or the error is reported and CLI_FAILED or CLI_USAGE returned. */
int asset_stream(struct asset_stream *s);
/* Name of the journal; heap, NULL on ENOMEM. manifest NULL: that of an origin. */
char *asset_stream_journal(const char *manifest, const char *asset_id);
/* There is nothing more to go on with. */
void asset_stream_done(struct asset_stream *s);
void asset_stream_clear(struct asset_stream *s);

#endif
