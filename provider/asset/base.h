/* SPDX-License-Identifier: Apache-2.0 */
/* The version that an overlay is made on: which files of a model are its own still. Functions that fail have
 * said so on stderr and return CLI_FAILED; CLI_OK otherwise. */
#ifndef TBPKG_ASSET_BASE_H
#define TBPKG_ASSET_BASE_H

#include "provider/asset/source.h"
#include "tbenc/tbenc.h"

struct asset_base {
    uint64_t version;
    struct tbenc_manifest *manifest;
    struct tbenc_base stands; /* what the overlay's manifest says of it; files are owned, paths borrowed */
    struct tbenc_input *own;  /* what the overlay carries: borrowed from the source, in its order */
    size_t n_own;
};

/* "my-model@2": the number, and whether the asset is the one. */
int asset_base_parse(const char *text, const char *asset_id, uint64_t *ret_version);
/* Reads the manifest of that version, and sees whether something can stand on it. */
int asset_base_read(const char *path, const char *asset_id, uint64_t version, struct asset_base *ret);
/* Reads each file of the model that may be one of the base's, and deals them out. */
int asset_base_compare(struct asset_base *b, const struct model_source *s, bool quiet);
void asset_base_clear(struct asset_base *b);

#endif
