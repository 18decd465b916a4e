/* SPDX-License-Identifier: Apache-2.0 */
/* The hydrated asset, as tb-decrypt sees it: manifest and ciphertext in TB_TARGET_DIR, and what binds them to
 * the contract, the client and the configuration. */
#ifndef TB_DECRYPT_ASSET_H
#define TB_DECRYPT_ASSET_H

#include <stdint.h>

#include "common/config.h"
#include "common/outcome.h"
#include "common/secret.h"
#include "decrypt/supply.h"
#include "decrypt/weights.h"
#include "tbenc/tbenc.h"

struct tb_asset {
    struct tbenc_manifest *manifest; /* owned */
    struct tb_supply supply;         /* the ciphertext */
    /* Of an overlay: what it stands on, else NULL; and the files that are delivered. Owned. tree is the
     * manifest's copy when it is no overlay. */
    struct tbenc_manifest *base, *tree;
    struct tb_supply base_supply;
};

/* Reads and checks the manifest: its SHA-256 against the credential manifest-sha256 (`none`: not bound) and
 * against the client's, its signature against TB_PROVIDER_KEY, its asset_id against TB_ASSET_ID; then opens
 * the ciphertext (supply.h). 0 or an exit code: 66 something is not there; 74; 75 the client read another
 * manifest; 76 integrity; 77; 78. */
int tb_asset_open(const struct tb_config *c, const uint8_t client_sha256[static TBENC_SHA256_BYTES],
                  struct tb_asset *ret, struct tb_outcome *o);
void tb_asset_clear(struct tb_asset *a);

/* Its files and ciphertexts, which w borrows. The rest of w is as it was. */
void tb_asset_weights(struct tb_asset *a, struct tb_weights *w);
/* Waits for the header of the file, without which nothing can be decrypted. stop() ends it with -ECANCELED.
 * -ESTALE: it will not come. */
int tb_asset_await_header(struct tb_asset *a, bool (*stop)(void *ctx), void *ctx);

/* The credential model-key, opened by the TPM when it is sealed. 0; 77 when it is refused (empty, or of
 * another size); 75 when it was sealed for an earlier state of this machine; 78 when the unit has none. */
int tb_asset_key(const struct tb_config *c, struct tb_key *ret, struct tb_outcome *o);

#endif
