/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes to uncommitted blocks, in parallel. A thread of its own lets the caller's feed produce them, a few
 * take each block's MD5 and so its id, the calling thread drives the transfers; a block the service
 * already holds is not sent again. Each block is kept until the service has taken it: what is sent again
 * are the same bytes. */
#ifndef TBPKG_AZURE_BLOB_UPLOAD_H
#define TBPKG_AZURE_BLOB_UPLOAD_H

#include "provider/azure/blob_client.h"

#define BLOB_CONCURRENCY_MAX 64

/* One block, before any of it is sent. */
struct blob_block {
    size_t index, len;
    uint8_t md5[BLOB_MD5_BYTES];
    uint8_t sha256[32]; /* only where there is an admit() */
    char id[BLOB_ID_CHARS + 1];
};

/* Where a feed puts its bytes, in order. Room for some more: waits until there is some; NULL: give up with
 * -ECANCELED, the upload has failed elsewhere. Then say how many were put there. */
struct blob_feed;
uint8_t *blob_feed_room(struct blob_feed *f, size_t *ret_n);
void blob_feed_advance(struct blob_feed *f, size_t n);
/* The same with a copy. 0 or -ECANCELED. */
int blob_feed_write(struct blob_feed *f, const void *buf, size_t n);

struct blob_upload {
    const struct blob_client *client;
    const char *path; /* "container/name" */
    uint64_t size;    /* > 0 */
    uint32_t block_bytes;
    unsigned concurrency; /* transfers at once; two blocks more are held in memory */
    uint64_t bandwidth;   /* bytes a second at most; 0: no limit */
    const char *session;  /* part of the blocks' ids, or NULL */
    const struct blob_staged_set *staged;
    bool only_compare; /* all of it is there: nothing is sent, and admit() judges each block */
    /* Puts exactly size bytes into f, on a thread of its own. 0 or -errno. */
    int (*feed)(void *ctx, struct blob_feed *f);
    /* Judges blocks before any byte of them is sent; NULL: all are good. From the calling thread. A
     * negative errno ends the upload with it, and none of them is sent. */
    int (*admit)(void *ctx, const struct blob_block *const *blocks, size_t n);
    void *feed_ctx;
    /* Bytes that are there and on their way, those that were there before this run, and how often the
     * unluckiest block was tried again. From the calling thread, some times a second. */
    void (*progress)(void *ctx, uint64_t done, uint64_t there, unsigned attempt);
    void *progress_ctx;
};
struct blob_upload_result {
    char (*ids)[BLOB_ID_CHARS + 1]; /* of all blocks in order, heap */
    size_t n_blocks;
    uint64_t bytes_sent, bytes_resumed; /* sum is the size */
    uint64_t retries;
};
void blob_upload_result_clear(struct blob_upload_result *r);
#define _cleanup_upload_result_ _cleanup_(blob_upload_result_clear)

/* 0; or -errno with *fault filled: -EREMOTEIO the service refused, others of blob_exchange_finish(), of
 * feed and of admit; -EBADMSG also: the feed produced another size. Blocks that were sent stay uncommitted
 * for a later run. */
int blob_upload_blocks(const struct blob_upload *u, struct blob_upload_result *ret, struct blob_fault *fault);

#endif
