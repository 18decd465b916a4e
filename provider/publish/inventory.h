/* SPDX-License-Identifier: Apache-2.0 */
/* What of assets lies in a container: each folder with a ciphertext, a manifest or an upload in progress;
 * what the control plane has registered of it; and what stands on what. Functions that fail have said so on
 * stderr and return an exit code of output.h; CLI_OK otherwise. */
#ifndef TBPKG_PUBLISH_INVENTORY_H
#define TBPKG_PUBLISH_INVENTORY_H

#include "provider/azure/xml.h"
#include "provider/publish/store.h"
#include "provider/remote/remote.h"

struct stored {
    char *folder;
    const struct blob_entry *ct, *mf; /* NULL: not there */
    struct tbenc_manifest *manifest;  /* NULL: not there, or none */
    uint64_t staged_bytes, staged_blocks;
    bool uploading; /* blocks that are not committed, and no ciphertext yet */
    /* at the control plane; version 0: not registered */
    uint64_t version, contracts; /* live ones that follow it, when it is current */
    bool current;
    const struct stored *overlay; /* one that stands on this, in the same container */
    uint64_t overlay_version;     /* one that the control plane knows to stand on this; 0: none */
};

struct inventory {
    struct asset_store *store; /* connected */
    struct remote *remote;     /* NULL: the control plane is not asked */
    struct blob_entries entries;
    struct stored *v;
    size_t n;
};

int inventory_take(struct inventory *i);
const struct stored *inventory_find(const struct inventory *i, const char *folder);
/* {"folder": ...} */
cJSON *inventory_show(const struct inventory *i, const struct stored *s);
/* Why it may not be removed: a version that is registered, or an overlay, needs it. CLI_OK or CLI_REFUSED. */
int inventory_check_unneeded(const struct inventory *i, const struct stored *s);
void inventory_clear(struct inventory *i);

#endif
