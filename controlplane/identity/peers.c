/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/identity/peers.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PEER_HASH_BYTES 32 /* SHA-256 */
#define PEER_WAYS 4
#define PEER_SETS (CP_PEERS_MAX / PEER_WAYS)

struct peer {
    uint8_t of[PEER_HASH_BYTES]; /* the CAs and the chain, each byte of them */
    uint64_t from_us, end_us;    /* it is good in between: a clock that was set back has it judged anew */
    struct cp_identity id;
};

struct cp_peers {
    pthread_mutex_t lock;
    struct peer known[PEER_SETS][PEER_WAYS];
};

struct cp_peers *cp_peers_new(void)
{
    struct cp_peers *s = calloc(1, sizeof(*s));

    if (s)
        pthread_mutex_init(&s->lock, NULL);
    return s;
}

struct cp_peers *cp_peers_free(struct cp_peers *s)
{
    if (s)
        pthread_mutex_destroy(&s->lock);
    free(s);
    return NULL;
}

/* With its length, so that no two lists of parts are the same bytes. */
static bool peer_hash_part(EVP_MD_CTX *c, const void *p, size_t len)
{
    uint64_t n = len;

    return EVP_DigestUpdate(c, &n, sizeof(n)) == 1 && EVP_DigestUpdate(c, p, len) == 1;
}

static bool peer_hash(const struct cp_peer *p, const char *ca_pem, uint8_t out[static PEER_HASH_BYTES])
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1 && peer_hash_part(c, ca_pem, strlen(ca_pem));

    for (size_t i = 0; ok && i < p->n; i++)
        ok = peer_hash_part(c, p->cert[i].der, p->cert[i].len);
    ok = ok && EVP_DigestFinal_ex(c, out, NULL) == 1;
    EVP_MD_CTX_free(c);
    return ok;
}

static struct peer *peer_set(struct cp_peers *s, const struct peer *e)
{
    return s->known[(e->of[0] << 8 | e->of[1]) % PEER_SETS];
}

static bool peer_same(const struct peer *a, const struct peer *b)
{
    return memcmp(a->of, b->of, PEER_HASH_BYTES) == 0;
}

/* When it is good no more; 0: it is not now. */
static uint64_t peer_end_us(const struct peer *e, uint64_t now_us)
{
    return e->from_us <= now_us && now_us < e->end_us ? e->end_us : 0;
}

static bool peer_find(struct cp_peers *s, const struct peer *e, uint64_t now_us, struct cp_identity *ret)
{
    struct peer *set = peer_set(s, e);
    bool found = false;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; !found && i < PEER_WAYS; i++) {
        found = peer_same(&set[i], e) && peer_end_us(&set[i], now_us) > 0;
        if (found)
            *ret = set[i].id;
    }
    pthread_mutex_unlock(&s->lock);
    return found;
}

/* In its own place, else in that of the one that is good for the shortest time. */
static void peer_keep(struct cp_peers *s, const struct peer *e)
{
    struct peer *set = peer_set(s, e), *at = set;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < PEER_WAYS && !peer_same(at, e); i++)
        if (peer_same(&set[i], e) || peer_end_us(&set[i], e->from_us) < peer_end_us(at, e->from_us))
            at = &set[i];
    *at = *e;
    pthread_mutex_unlock(&s->lock);
}

int cp_peers_identify(struct cp_peers *s, const struct cp_peer *p, const char *ca_pem, uint64_t now_us,
                      struct cp_identity *ret)
{
    struct peer e = {.from_us = now_us};
    bool hashed = s && p->n > 0 && peer_hash(p, ca_pem, e.of);
    int r;

    if (hashed && peer_find(s, &e, now_us, ret))
        return 0;
    r = cp_peer_verify(p, ca_pem, false, now_us, &e.id);
    if (r < 0)
        return r;
    *ret = e.id;
    e.end_us = MIN(now_us + CP_PEER_KEPT_US, e.id.end_us);
    if (hashed)
        peer_keep(s, &e);
    return 0;
}
