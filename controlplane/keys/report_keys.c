/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/report_keys.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/usage_report.h"

#define REPORT_KEY_HASH 32 /* SHA-256 */

struct report_key {
    bool known;
    uint8_t of[REPORT_KEY_HASH]; /* the asset, the KEK, and the wrapped key */
    struct tb_key key;
};

/* Secret memory. Two that fall on one place take it from each other. */
struct cp_report_keys {
    pthread_mutex_t lock;
    struct report_key at[CP_REPORT_KEYS_MAX];
};

struct cp_report_keys *cp_report_keys_new(void)
{
    struct cp_report_keys *k = tb_secret_alloc(sizeof(*k));

    if (k)
        pthread_mutex_init(&k->lock, NULL);
    return k;
}

struct cp_report_keys *cp_report_keys_free(struct cp_report_keys *k)
{
    if (k)
        pthread_mutex_destroy(&k->lock);
    tb_secret_free(k);
    return NULL;
}

static bool report_key_hash(const char *asset_id, const struct cp_wrapped *w,
                            uint8_t out[static REPORT_KEY_HASH])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 &&
              EVP_DigestUpdate(c, asset_id, strlen(asset_id) + 1) == 1 &&
              EVP_DigestUpdate(c, w->kek_id, strlen(w->kek_id) + 1) == 1 &&
              EVP_DigestUpdate(c, w->b, w->len) == 1 && EVP_DigestFinal_ex(c, out, NULL) == 1;

    EVP_MD_CTX_free(c);
    return ok;
}

int cp_report_keys_get(struct cp_report_keys *k, struct cp_keyring *ring, const char *asset_id,
                       const struct cp_wrapped *w, struct tb_key *ret)
{
    _cleanup_key_ struct tb_key asset_key = {0};
    uint8_t of[REPORT_KEY_HASH];
    struct report_key *at = NULL;
    bool known = false;
    int r;

    if (k && report_key_hash(asset_id, w, of))
        at = &k->at[of[0] % CP_REPORT_KEYS_MAX];
    if (at) {
        pthread_mutex_lock(&k->lock);
        known = at->known && memcmp(at->of, of, sizeof(of)) == 0;
        if (known)
            *ret = at->key;
        pthread_mutex_unlock(&k->lock);
    }
    if (known)
        return 0;
    r = cp_keyring_unwrap(ring, asset_id, w, &asset_key);
    if (r == 0)
        r = tb_report_key(&asset_key, ret);
    if (r < 0 || !at)
        return r;
    pthread_mutex_lock(&k->lock);
    at->known = true;
    memcpy(at->of, of, sizeof(of));
    at->key = *ret;
    pthread_mutex_unlock(&k->lock);
    return 0;
}
