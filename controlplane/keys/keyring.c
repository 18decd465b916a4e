/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/keyring.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/io.h"
#include "common/units.h"

#define KEYRING_PROVIDERS_MAX 8
#define KEYRING_PLACE_MS 200 /* a place is waited for */
#define KEYRING_FIRST_S 2    /* so long somebody else's first check is waited for */

struct cp_keyring {
    struct {
        const struct cp_keyring_ops *ops;
        void *me;
    } p[KEYRING_PROVIDERS_MAX]; /* the first one wraps */
    size_t n;
    /* the last check. While one goes on, which may take as long as the service hangs, the others go by the
     * one before */
    pthread_mutex_t lock;
    pthread_cond_t first;
    bool checking;
    uint64_t checked_us; /* 0: never */
    int check;
    char kek_id[CP_KEK_ID_MAX + 1];
    /* who is inside */
    pthread_mutex_t door;
    pthread_cond_t left;
    unsigned most, inside; /* most 0: no limit */
    bool stuck;            /* somebody waited for a place in vain, and nobody has left since */
};

int cp_keyring_new(const struct cp_keyring_ops *ops, void *me, struct cp_keyring **ret)
{
    struct cp_keyring *k = calloc(1, sizeof(*k));

    if (!k)
        return -ENOMEM;
    k->p[0].ops = ops;
    k->p[0].me = me;
    k->n = 1;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->first, NULL);
    pthread_mutex_init(&k->door, NULL);
    pthread_cond_init(&k->left, NULL);
    *ret = k;
    return 0;
}

int cp_keyring_join(struct cp_keyring *k, struct cp_keyring *older)
{
    if (k->n + older->n > KEYRING_PROVIDERS_MAX)
        return -E2BIG;
    memcpy(k->p + k->n, older->p, older->n * sizeof(older->p[0]));
    k->n += older->n;
    older->n = 0;
    cp_keyring_close(older);
    return 0;
}

struct cp_keyring *cp_keyring_close(struct cp_keyring *k)
{
    if (!k)
        return NULL;
    for (size_t i = 0; i < k->n; i++)
        if (k->p[i].ops->close)
            k->p[i].ops->close(k->p[i].me);
    pthread_cond_destroy(&k->left);
    pthread_mutex_destroy(&k->door);
    pthread_cond_destroy(&k->first);
    pthread_mutex_destroy(&k->lock);
    free(k);
    return NULL;
}

/* -- the door ---------------------------------------------------------------------------------- */
void cp_keyring_limit(struct cp_keyring *k, unsigned most)
{
    k->most = most;
}

static int keyring_enter(struct cp_keyring *k)
{
    struct timespec end;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_nsec += KEYRING_PLACE_MS * 1000000L;
    end.tv_sec += end.tv_nsec / 1000000000L;
    end.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&k->door);
    while (k->most && k->inside >= k->most && !k->stuck && r == 0)
        r = pthread_cond_timedwait(&k->left, &k->door, &end);
    if (k->most && k->inside >= k->most) {
        k->stuck = true;
        r = -EAGAIN;
    } else {
        k->inside++;
        r = 0;
    }
    pthread_mutex_unlock(&k->door);
    return r;
}

static void keyring_leave(struct cp_keyring *k)
{
    pthread_mutex_lock(&k->door);
    k->inside--;
    k->stuck = false;
    pthread_cond_signal(&k->left);
    pthread_mutex_unlock(&k->door);
}

int cp_keyring_wrap(struct cp_keyring *k, const char *asset_id, const struct tb_key *key,
                    struct cp_wrapped *ret)
{
    int r = keyring_enter(k);

    if (r < 0)
        return r;
    r = k->p[0].ops->wrap(k->p[0].me, asset_id, key, ret);
    keyring_leave(k);
    return r;
}

int cp_keyring_unwrap(struct cp_keyring *k, const char *asset_id, const struct cp_wrapped *w,
                      struct tb_key *ret)
{
    int r = keyring_enter(k);

    if (r < 0)
        return r;
    r = -ENOKEY;
    for (size_t i = 0; i < k->n && r == -ENOKEY; i++)
        r = k->p[i].ops->unwrap(k->p[i].me, asset_id, w, ret);
    keyring_leave(k);
    return r;
}

/* The round trip of a key that nobody uses. */
static int keyring_try(struct cp_keyring *k, char kek_id[static CP_KEK_ID_MAX + 1])
{
    static const char asset[] = "health";
    _cleanup_key_ struct tb_key key, again;
    struct cp_wrapped w;
    int r = tb_random(key.b, sizeof(key.b));

    if (r == 0)
        r = cp_keyring_wrap(k, asset, &key, &w);
    if (r == 0)
        r = cp_keyring_unwrap(k, asset, &w, &again);
    if (r == 0 && !tb_mem_equal(key.b, again.b, sizeof(key.b)))
        r = -EIO;
    if (r == 0)
        strcpy(kek_id, w.kek_id);
    return r;
}

/* Holding the lock, which is given up meanwhile. */
static void keyring_check_anew(struct cp_keyring *k)
{
    char kek_id[CP_KEK_ID_MAX + 1] = "";
    int r;

    k->checking = true;
    pthread_mutex_unlock(&k->lock);
    r = keyring_try(k, kek_id);
    pthread_mutex_lock(&k->lock);
    k->checking = false;
    k->check = r;
    strcpy(k->kek_id, kek_id);
    k->checked_us = tb_now_monotonic_us();
    pthread_cond_broadcast(&k->first);
}

int cp_keyring_check(struct cp_keyring *k, char kek_id[CP_KEK_ID_MAX + 1])
{
    struct timespec end;
    int r = 0;

    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += KEYRING_FIRST_S;
    pthread_mutex_lock(&k->lock);
    while (!k->checked_us && k->checking && r == 0)
        r = pthread_cond_timedwait(&k->first, &k->lock, &end);
    if (!k->checking &&
        (!k->checked_us || tb_now_monotonic_us() - k->checked_us > CP_KEYRING_CHECK_S * TB_USEC_PER_SEC))
        keyring_check_anew(k);
    r = k->checked_us ? k->check : -EAGAIN;
    if (r == 0 && kek_id)
        strcpy(kek_id, k->kek_id);
    pthread_mutex_unlock(&k->lock);
    return r;
}
