/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/attest/maa_keys.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#include "common/log.h"
#include "controlplane/access/issuer.h"

/* Contracts of a provider name few: Microsoft's of a region or two, or one of his own. */
#define INSTANCES_MAX 32
/* Once a minute: a token that names a key that nobody has costs Microsoft's instance no more. Keys say
 * that there are no others only where they were fetched after the token came: an instance takes new ones
 * without notice, and a refusal stops a machine. */
#define REFILL_US 60000000ULL

struct cp_maa_keys {
    struct cp_jwks pinned;
    bool is_pinned;
    const char *ca_file;
    pthread_mutex_t lock; /* of the table; issuers stay */
    struct cp_issuer *issuers[INSTANCES_MAX];
    char urls[INSTANCES_MAX][CP_ISSUER_URL_MAX];
    size_t n;
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
    for (size_t i = 0; i < k->n; i++)
        cp_issuer_free(k->issuers[i]);
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

/* NULL: too many, or out of memory. */
static struct cp_issuer *maa_find_issuer(struct cp_maa_keys *k, const char *url)
{
    const struct cp_issuer_settings s = {
        .url = url, .ca_file = k->ca_file, .burst = 1, .refill_us = REFILL_US};
    struct cp_issuer *found = NULL;

    pthread_mutex_lock(&k->lock);
    for (size_t i = 0; !found && i < k->n; i++)
        if (strcmp(k->urls[i], url) == 0)
            found = k->issuers[i];
    if (!found && k->n < INSTANCES_MAX && cp_issuer_new(&s, &found) == 0) {
        snprintf(k->urls[k->n], sizeof(k->urls[0]), "%s", url);
        k->issuers[k->n++] = found;
    }
    pthread_mutex_unlock(&k->lock);
    return found;
}

int cp_maa_keys_find(struct cp_maa_keys *k, const char *issuer, const struct cp_jwt *t, struct cp_jwk *ret)
{
    struct cp_issuer *i;

    if (k->is_pinned)
        return maa_find_pinned(k, t, ret);
    i = maa_find_issuer(k, issuer);
    if (!i)
        tb_error("contracts name more than %d instances of Azure Attestation; the keys of %s are not fetched",
                 INSTANCES_MAX, issuer);
    return i ? cp_issuer_find(i, t, ret) : -EAGAIN;
}
