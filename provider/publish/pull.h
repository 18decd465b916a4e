/* SPDX-License-Identifier: Apache-2.0 */
/* A version of an asset that lies in Blob storage, as something that can be sealed again: fetched, opened and
 * dealt out to its files while it is read, without a copy on this machine. An overlay is all its files, those
 * of its base too. Functions that fail have said so on stderr and return CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_PULL_H
#define TBPKG_PUBLISH_PULL_H

#include <pthread.h>

#include "common/minisign.h"
#include "provider/cli/key_arg.h"
#include "provider/publish/store.h"
#include "provider/publish/stream.h"

/* One ciphertext. */
struct pull_part {
    char *ciphertext_url, *manifest_url;
    char manifest_sha256[65]; /* as the control plane has it; "": that knows none */
    const char *path;         /* of the ciphertext, at the service */
    char etag[128];           /* of what is read, from its first byte to its last */
    char *text;               /* of the manifest, without a NUL */
    size_t text_len;
    char text_sha256[BLOB_SHA256_HEX + 1];
    struct tbenc_manifest *manifest;
    bool is_signed;
};

struct pull {
    const struct cli *cli;
    struct asset_store *from; /* connected */
    const char *asset_id;
    const struct cli_key_arg *key_arg;
    const struct tb_minisign_keys *trusted; /* one of them must have signed the manifest; or NULL */
    /* URLs, heap, and manifest_sha256 are the caller's to set; URLs of base NULL: none */
    struct pull_part own, base;
    /* what came of it */
    struct tbenc_manifest *tree; /* what is delivered */
    struct stream_origin origin;
    char state[65];
    /* private */
    struct tb_key key;
    struct tbenc_input *inputs;
    int *write_fds;           /* of inputs */
    int sealed[2], opened[2]; /* ciphertext, plaintext: pipes between the threads */
    pthread_t threads[3];
    unsigned n_threads;
    struct blob_exchange connection; /* of the thread that fetches */
    /* each its thread's, until that is joined */
    int start_r, fetch_rc, open_r;
    const struct pull_part *opened_part; /* that open_r is of */
    struct tbenc_error open_error;
};
#define PULL_INIT                                                                                            \
    {                                                                                                        \
        .sealed = {-1, -1}, .opened = { -1, -1 }                                                             \
    }

/* Reads manifests and key, and sees whether all is there and belongs together. */
int pull_open(struct pull *p);
void pull_clear(struct pull *p);

/* -- between its files ------------------------------------------------------------------------- */

#define PULL_RANGE_BYTES (16U << 20)

/* Bytes [off, off + n) of the part. */
int pull_range(struct pull *p, const struct pull_part *part, uint64_t off, uint64_t n,
               struct blob_reply *ret);
/* A thread: what an overlay delivers, from both ciphertexts, one file after another. */
void *pull_overlay_thread(void *pull);

#endif
