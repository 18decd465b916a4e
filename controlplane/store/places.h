/* SPDX-License-Identifier: Apache-2.0 */
/* Where a version of an asset lies: the URLs that are in its row, and further ones with the same contents. */
#ifndef CP_STORE_PLACES_H
#define CP_STORE_PLACES_H

#include "controlplane/blob/deal.h"
#include "controlplane/store/store.h"

/* The version's further places are those of p behind its first. In a transaction. */
int cp_store_put_places(struct cp_store *s, const struct cp_asset *a, const struct cp_places *p);
/* The first is that of a. */
int cp_store_get_places(struct cp_store *s, const struct cp_asset *a, struct cp_places *ret);

/* The further places of all versions of the asset, by version. */
int cp_store_each_place(struct cp_store *s, const char *asset_id,
                        int (*fn)(uint64_t version, const char *ciphertext_url, void *ctx), void *ctx);

#endif
