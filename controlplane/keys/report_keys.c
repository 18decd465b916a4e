/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/report_keys.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/usage_report.h"

#define REPORT_KEY_HASH 32 /* SHA-256 */

struct report_key {
    uint64_t used;               /* when, by the clock below; 0: there is none */
    uint8_t of[REPORT_KEY_HASH]; /* the asset, the KEK, and the wrapped key */
    struct tb_key key;
};

/* Secret memory. Any key may be at any place: of two that shared one, each would be unwrapped every time. */
struct cp_report_keys {
    pthread_mutex_t lock;
    uint64_t clock; /* counts what was asked for */
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

/* Its place, or the one that was not used for the longest. With the lock. */
static struct report_key *report_key_place(struct cp_report_keys *k, const uint8_t *of)
{
    struct report_key *oldest = &k->at[0];

    for (size_t i = 0; i < CP_REPORT_KEYS_MAX; i++) {
        struct report_key *at = &k->at[i];

        if (at->used && memcmp(at->of, of, REPORT_KEY_HASH) == 0)
            return at;
        if (at->used < oldest->used)
            oldest = at;
    }
    return oldest;
}

static bool report_keys_find(struct cp_report_keys *k, const uint8_t *of, struct tb_key *ret)
{
    struct report_key *at;
    bool known;

    pthread_mutex_lock(&k->lock);
    at = report_key_place(k, of);
    known = at->used && memcmp(at->of, of, REPORT_KEY_HASH) == 0;
    if (known) {
        at->used = ++k->clock;
        *ret = at->key;
    }
    pthread_mutex_unlock(&k->lock);
    return known;
}

static void report_keys_keep(struct cp_report_keys *k, const uint8_t *of, const struct tb_key *key)
{
    struct report_key *at;

    pthread_mutex_lock(&k->lock);
    at = report_key_place(k, of);
    at->used = ++k->clock;
    memcpy(at->of, of, REPORT_KEY_HASH);
    at->key = *key;
    pthread_mutex_unlock(&k->lock);
}

int cp_report_keys_get(struct cp_report_keys *k, struct cp_keyring *ring, const char *asset_id,
                       const struct cp_wrapped *w, struct tb_key *ret)
{
    _cleanup_key_ struct tb_key asset_key = {0};
    uint8_t of[REPORT_KEY_HASH];
    bool keep = k && report_key_hash(asset_id, w, of);
    int r;

    if (keep && report_keys_find(k, of, ret))
        return 0;
    r = cp_keyring_unwrap(ring, asset_id, w, &asset_key);
    if (r == 0)
        r = tb_report_key(&asset_key, ret);
    if (r == 0 && keep)
        report_keys_keep(k, of, ret);
    return r;
}
