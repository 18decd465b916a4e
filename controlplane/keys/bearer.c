/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/keys/bearer.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/secret.h"
#include "common/units.h"

#define BEARER_RENEW_S 300 /* before the token ends */

struct cp_bearer {
    const char *service, *client_id;
    pthread_mutex_t lock;
    char *header; /* secret memory */
    uint64_t renew_us;
};

struct cp_bearer *cp_bearer_new(const char *service, const char *client_id)
{
    struct cp_bearer *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->service = service;
    b->client_id = client_id;
    pthread_mutex_init(&b->lock, NULL);
    return b;
}

struct cp_bearer *cp_bearer_free(struct cp_bearer *b)
{
    if (!b)
        return NULL;
    tb_secret_free(b->header);
    pthread_mutex_destroy(&b->lock);
    free(b);
    return NULL;
}

/* With the lock. */
static int bearer_fetch(struct cp_bearer *b, char *err)
{
    struct tb_azure_token t = {0};
    uint64_t s;
    int r = tb_azure_identity_token(b->service, b->client_id, &t, err);

    if (r < 0)
        return r;
    tb_secret_free(b->header);
    b->header = tb_secret_alloc(strlen(t.text) + 32);
    if (b->header)
        sprintf(b->header, "Authorization: Bearer %s", t.text);
    tb_secret_free(t.text);
    s = t.lifetime_s > 2 * BEARER_RENEW_S ? t.lifetime_s - BEARER_RENEW_S : t.lifetime_s / 2;
    b->renew_us = tb_now_monotonic_us() + s * TB_USEC_PER_SEC;
    if (!b->header)
        snprintf(err, TB_AZURE_ERR_MAX, "out of memory");
    return b->header ? 0 : -ENOMEM;
}

/* One that still holds is used when the identity does not answer. */
char *cp_bearer_header(struct cp_bearer *b, bool fresh, char err[static TB_AZURE_ERR_MAX])
{
    char *copy = NULL;
    int r = 0;

    err[0] = '\0';
    pthread_mutex_lock(&b->lock);
    if (fresh || !b->header || tb_now_monotonic_us() >= b->renew_us)
        r = bearer_fetch(b, err);
    if (b->header && !(r < 0 && fresh)) {
        copy = tb_secret_alloc(strlen(b->header) + 1);
        if (copy)
            strcpy(copy, b->header);
    }
    pthread_mutex_unlock(&b->lock);
    return copy;
}
