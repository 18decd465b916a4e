/* SPDX-License-Identifier: Apache-2.0 */
/* A file to uncommitted blocks, in parallel. One thread reads the file and hashes it as a whole, one takes
 * each block's MD5 and so its id, the calling thread drives the transfers; a block the service already holds
 * is not sent again. The bytes hashed are the bytes sent. */
#ifndef TBPKG_AZURE_BLOB_UPLOAD_H
#define TBPKG_AZURE_BLOB_UPLOAD_H

#include "provider/azure/blob_client.h"

#define BLOB_CONCURRENCY_MAX 64

struct blob_upload {
    const struct blob_client *client;
    const char *path; /* "container/name" */
    int fd;           /* read with pread */
    uint64_t size;    /* > 0 */
    uint32_t block_bytes;
    unsigned concurrency; /* transfers at once; about two blocks more are held in memory */
    const struct blob_staged_set *staged;
    void (*progress)(void *ctx,
                     uint64_t done); /* bytes that are there, and on their way; from the calling thread */
    void *ctx;
};
struct blob_upload_result {
    char (*ids)[BLOB_ID_CHARS + 1]; /* of all blocks in order, heap */
    size_t n_blocks;
    uint64_t bytes_sent, bytes_resumed; /* sum is the file's size */
    uint64_t retries;
    uint8_t sha256[32]; /* of the whole file */
};
void blob_upload_result_clear(struct blob_upload_result *r);
#define _cleanup_upload_result_ _cleanup_(blob_upload_result_clear)

/* 0; or -errno with *fault filled: -EBADMSG the file is shorter than size, -EREMOTEIO the service refused,
 * others of blob_exchange_finish() and read. Blocks that were sent stay uncommitted for a later run. */
int blob_upload_blocks(const struct blob_upload *u, struct blob_upload_result *ret, struct blob_fault *fault);

#endif
