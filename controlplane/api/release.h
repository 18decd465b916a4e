/* SPDX-License-Identifier: Apache-2.0 */
/* A version that goes out with the answer to authorize: its key, the URLs of its ciphertext and manifest;
 * and, when it is an overlay, those of the version that it stands on, for a machine that has not got that.
 * The key of both is one (tbenc(5), OVERLAYS). */
#ifndef CP_RELEASE_H
#define CP_RELEASE_H

#include "common/json.h"
#include "common/secret.h"
#include "controlplane/blob/sas.h"
#include "controlplane/store/places.h"

/* As they were dealt to the machine, signed: one, and what it falls back to. */
struct cp_release_urls {
    size_t n;
    struct {
        char sas[CP_SAS_URL_MAX], manifest[CP_SAS_URL_MAX];
    } v[CP_DEALT_MAX];
};

struct cp_release {
    struct cp_asset asset;
    struct tb_key key;
    struct cp_places places, base_places; /* the latter: none, or of asset.base_version */
    struct cp_release_urls urls, base_urls;
};

/* The places of l->asset. -errno of the store. */
int cp_release_find(struct cp_store *s, struct cp_release *l);
/* What signs the URLs, fetched before a transaction that needs it. */
void cp_release_prepare(const struct cp_sas *sas, const struct cp_release *l, uint64_t now_us);
/* As the places are dealt to the machine. -EAGAIN: what signs them does not answer; -EINVAL. */
int cp_release_deal(const struct cp_sas *sas, struct cp_release *l, const char *machine, uint64_t now_us,
                    uint64_t end_us);
/* Into the answer. false on ENOMEM. */
bool cp_release_add_urls(const struct cp_release *l, cJSON *j);
bool cp_release_add_key(const struct cp_release *l, cJSON *j);
bool cp_release_add_version(const struct cp_release *l, cJSON *j);

#endif
