/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/maa_keys.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controlplane/access/issuer.h"

/* Whose keys are kept at once. Contracts may name more: then who was not asked for the longest time is
 * forgotten, and costs a question more the next time. More than there are workers: one of them is idle. */
#define INSTANCES_MAX 256
/* Once a minute: a token that names a key that nobody has costs Microsoft's instance no more. Keys say
 * that there are no others only where they were fetched after the token came, and where those of an hour
 * before lacked it, too: an instance takes new ones without notice, its front ends list them one after the
 * other, and a refusal stops a machine. */
#define REFILL_US 60000000ULL

struct maa_instance {
    struct cp_issuer *issuer; /* NULL: the place is free */
    unsigned users;
    uint64_t turn; /* of the last who asked for it */
};

struct cp_maa_keys {
    struct cp_jwks pinned;
    bool is_pinned;
    const char *ca_file;
    pthread_mutex_t lock; /* of the table; what has users stays */
    struct maa_instance instances[INSTANCES_MAX];
    uint64_t turns;
};

int cp_maa_keys_new(const char *pinned, const char *ca_file, struct cp_maa_keys **ret,
                    char err[static CP_JWT_ERR_MAX])
{
    struct cp_maa_keys *k = calloc(1, sizeof(*k));
    int r = 0;

    snprintf(err, CP_JWT_ERR_MAX, "out of memory");
    if (!k)
        return -ENOMEM;
    pthread_mutex_init(&k->lock, NULL);
    k->ca_file = ca_file;
    k->is_pinned = pinned;
    if (pinned)
        r = cp_jwks_parse(pinned, strlen(pinned), &k->pinned, err);
    if (pinned && r == 0 && k->pinned.n == 0) {
        snprintf(err, CP_JWT_ERR_MAX, "no key for RS256 is in it; it is what https://INSTANCE/certs answers");
        r = -EINVAL;
    }
    if (r < 0) {
        cp_maa_keys_free(k);
        return r;
    }
    *ret = k;
    return 0;
}

struct cp_maa_keys *cp_maa_keys_free(struct cp_maa_keys *k)
{
    if (!k)
        return NULL;
    for (size_t i = 0; i < INSTANCES_MAX; i++)
        cp_issuer_free(k->instances[i].issuer);
    cp_jwks_clear(&k->pinned);
    pthread_mutex_destroy(&k->lock);
    free(k);
    return NULL;
}

static int maa_find_pinned(const struct cp_maa_keys *k, const struct cp_jwt *t, struct cp_jwk *ret)
{
    for (size_t i = 0; i < k->pinned.n; i++) {
        const struct cp_jwk *key = &k->pinned.v[i];

        if (strcmp(key->kid, t->kid) != 0 || key->alg != t->alg || EVP_PKEY_up_ref(key->key) != 1)
            continue;
        *ret = *key;
        return 0;
    }
    return -EACCES;
}

/* With the lock: the place of this instance, or of who gives way to it; NULL: all are in use. */
static struct maa_instance *maa_find_place(struct cp_maa_keys *k, const char *url)
{
    struct maa_instance *place = NULL;

    for (size_t i = 0; i < INSTANCES_MAX; i++) {
        struct maa_instance *m = &k->instances[i];

        if (m->issuer && strcmp(cp_issuer_url(m->issuer), url) == 0)
            return m;
        if (m->users == 0 && (!place || m->turn < place->turn))
            place = m;
    }
    return place;
}

static int maa_take_instance(struct cp_maa_keys *k, const char *url, struct maa_instance **ret)
{
    const struct cp_issuer_settings s = {.url = url,
                                         .ca_file = k->ca_file,
                                         .burst = 1,
                                         .refill_us = REFILL_US,
                                         .confirm_us = CP_ISSUER_FRESH_US};
    struct cp_issuer *new = NULL;
    struct maa_instance *m;
    int r = 0;

    pthread_mutex_lock(&k->lock);
    m = maa_find_place(k, url);
    if (!m)
        r = -EBUSY;
    else if (!m->issuer || strcmp(cp_issuer_url(m->issuer), url) != 0)
        r = cp_issuer_new(&s, &new);
    if (new) {
        cp_issuer_free(m->issuer);
        m->issuer = new;
    }
    if (r == 0) {
        m->users++;
        m->turn = ++k->turns;
        *ret = m;
    }
    pthread_mutex_unlock(&k->lock);
    return r;
}

static void maa_leave_instance(struct cp_maa_keys *k, struct maa_instance *m)
{
    pthread_mutex_lock(&k->lock);
    m->users--;
    pthread_mutex_unlock(&k->lock);
}

int cp_maa_keys_find(struct cp_maa_keys *k, const char *issuer, const struct cp_jwt *t, struct cp_jwk *ret)
{
    struct maa_instance *m = NULL;
    int r;

    if (k->is_pinned)
        return maa_find_pinned(k, t, ret);
    r = maa_take_instance(k, issuer, &m);
    if (r < 0) {
        tb_error("the keys of %s cannot be fetched now: %s", issuer,
                 r == -EBUSY ? "too many other instances are being asked; try again" : strerror(-r));
        return -EAGAIN;
    }
    r = cp_issuer_find(m->issuer, t, ret);
    maa_leave_instance(k, m);
    return r;
}
