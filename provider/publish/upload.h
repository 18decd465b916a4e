/* SPDX-License-Identifier: Apache-2.0 */
/* Putting an asset into Blob storage. The ciphertext goes first, as blocks that stay uncommitted until all
 * are there and the file's hash is the one of the manifest; the manifest goes last, so whoever finds it finds
 * a complete asset. An interrupted run is resumed by the same call: the service keeps uncommitted blocks for
 * a week. */
#ifndef TBPKG_PUBLISH_UPLOAD_H
#define TBPKG_PUBLISH_UPLOAD_H

#include "provider/azure/blob_object.h"
#include "provider/azure/blob_upload.h"
#include "provider/cli/command.h"
#include "tbenc/tbenc.h"

struct asset_upload {
    const struct cli *cli; /* for messages */
    /* what to do */
    const char *account, *container, *asset_id, *file, *manifest_path, *endpoint, *ca_file;
    bool force, verify, insecure, verbose;
    uint64_t block_bytes, concurrency, retries, timeout;
    struct azure_auth_options credentials;
    /* what came of it */
    struct blob_object ct, mf; /* ciphertext and manifest */
    struct blob_service service;
    /* private */
    struct tbenc_manifest *manifest;
    char *manifest_text;
    int fd;
    struct azure_auth auth;
    struct tb_http_tls tls;
    struct blob_client client;
    struct tb_progress progress;
};
#define ASSET_UPLOAD_INIT                                                                                    \
    {                                                                                                        \
        .container = "models", .block_bytes = BLOB_BLOCK_BYTES_DEFAULT, .concurrency = 16, .retries = 8,     \
        .timeout = 60, .fd = -1                                                                              \
    }

/* CLI_OK; or the error is reported and CLI_FAILED or CLI_USAGE returned. */
int asset_upload(struct asset_upload *a);
void asset_upload_clear(struct asset_upload *a);

#endif
