/* SPDX-License-Identifier: Apache-2.0 */
/* A version of an asset under a new key, without a copy here: its ciphertext is fetched, opened, sealed again
 * and stored, all at once. Nothing is removed and no key touched: the new key is where it belongs before the
 * first byte leaves, and the new version becomes one when all of the old one was verified. A run that was
 * killed leaves blocks that are not committed (tbpkg abort), and the next one begins anew under another key,
 * in another folder: no key ever seals two things. Wrong would be a version whose plaintext is another. */
#ifndef TBPKG_PUBLISH_ROTATION_H
#define TBPKG_PUBLISH_ROTATION_H

#include "provider/asset/key.h"
#include "provider/asset/signer.h"
#include "provider/cli/key_arg.h"
#include "provider/publish/store.h"

struct rotation {
    const struct cli *cli;
    /* what to do */
    const char *asset_id, *ciphertext_url, *manifest_url; /* of the version */
    const char *key_out, *manifest_path;                  /* the latter NULL: by asset and key */
    const struct cli_key_arg *key_arg;                    /* of the version's key */
    struct asset_store *from, *to; /* connected; each by itself, as both are used at once */
    struct signer_options sign;
    /* what came of it */
    struct key_out key;
    struct tbenc_manifest *result;
    char *made_manifest;
    /* private */
    struct signer signer;
    struct tbenc_manifest *old;
    struct tb_key old_key, new_key;
};

/* Holds the new key for what follows in this process (cli_key_hold()). CLI_OK; or reported. */
int rotation_run(struct rotation *r);
void rotation_clear(struct rotation *r);

#endif
