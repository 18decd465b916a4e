/* SPDX-License-Identifier: Apache-2.0 */
/* Decrypting an asset: plaintext takes its name only after every check passed. */
#ifndef TBPKG_ASSET_UNSEAL_H
#define TBPKG_ASSET_UNSEAL_H

#include "provider/asset/asset.h"
#include "provider/cli/key_arg.h"

struct asset_unseal {
    const struct cli *cli; /* for messages */
    /* what to do */
    const char *base;                /* of an overlay: the ciphertext that it stands on */
    const char *in, *manifest, *out; /* as asset_open() takes them; out "-": standard output */
    const struct cli_key_arg *key_arg;
    const char *provider_key; /* NULL, or who must have signed the manifest: provider_keys_read() */
    uint64_t threads;         /* 0: one for each CPU */
    unsigned flags;           /* enum tbenc_flags */
    bool force;
    /* what came of it */
    struct asset asset;
    struct tbenc_manifest *tree; /* the files that it has, with those of its base */
    /* private */
    struct asset under;
    struct tb_minisign_keys trusted;
    struct tb_key key;
    struct cli_progress progress;
};

/* CLI_OK; or the error is reported and CLI_FAILED or CLI_USAGE returned. */
int asset_unseal(struct asset_unseal *u);
void asset_unseal_clear(struct asset_unseal *u);

#endif
