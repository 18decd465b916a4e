/* SPDX-License-Identifier: Apache-2.0 */
/* Putting an encrypted asset that lies on this machine into Blob storage (store.h). An interrupted run is
 * resumed by the same call. */
#ifndef TBPKG_PUBLISH_UPLOAD_H
#define TBPKG_PUBLISH_UPLOAD_H

#include "provider/publish/store.h"
#include "tbenc/tbenc.h"

struct asset_upload {
    /* what to do */
    const char *file, *manifest_path;
    bool verify;
    struct asset_store store; /* and what came of it */
    /* private */
    struct tbenc_manifest *manifest;
    char *manifest_text;
    int fd;
};
#define ASSET_UPLOAD_INIT                                                                                    \
    {                                                                                                        \
        .store = ASSET_STORE_INIT, .fd = -1                                                                  \
    }

/* CLI_OK; or the error is reported and CLI_FAILED or CLI_USAGE returned. */
int asset_upload(struct asset_upload *a);
void asset_upload_clear(struct asset_upload *a);

#endif
