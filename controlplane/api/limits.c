/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/limits.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "common/secret.h"
#include "common/units.h"

#define LIMIT_SETS 1024
#define LIMIT_WAYS 4
#define LIMIT_NETWORK_BYTES 8 /* /64: what one customer of a network has at least */
/* Tokens are counted in microseconds of their rate, so that none is lost to rounding. */
#define LIMIT_MINUTE_US (60 * TB_USEC_PER_SEC)

struct limit_bucket {
    uint64_t who;     /* hash; 0: free */
    uint64_t full_us; /* when it will be full: the later, the emptier */
};

struct cp_limits {
    pthread_mutex_t lock;
    uint64_t seed;
    uint64_t cost_us[_CP_LIMIT_MAX]; /* of one request; 0: no limit */
    uint64_t burst[_CP_LIMIT_MAX];
    struct limit_bucket bucket[_CP_LIMIT_MAX][LIMIT_SETS][LIMIT_WAYS];
};

struct cp_limits *cp_limits_new(uint64_t client_rate, uint64_t contract_rate)
{
    struct cp_limits *l = calloc(1, sizeof(*l));

    if (!l)
        return NULL;
    pthread_mutex_init(&l->lock, NULL);
    (void)tb_random(&l->seed, sizeof(l->seed));
    l->cost_us[CP_LIMIT_CLIENT] = client_rate ? TB_USEC_PER_SEC / client_rate : 0;
    l->cost_us[CP_LIMIT_CONTRACT] = contract_rate ? TB_USEC_PER_SEC / contract_rate : 0;
    l->cost_us[CP_LIMIT_GUESS] = LIMIT_MINUTE_US / CP_GUESSES_PER_MINUTE;
    l->burst[CP_LIMIT_CLIENT] = MAX(client_rate, (uint64_t)CP_CLIENT_BURST);
    l->burst[CP_LIMIT_CONTRACT] = MAX(contract_rate, (uint64_t)CP_CONTRACT_BURST);
    l->burst[CP_LIMIT_GUESS] = CP_GUESS_BURST;
    return l;
}

struct cp_limits *cp_limits_free(struct cp_limits *l)
{
    if (l)
        pthread_mutex_destroy(&l->lock);
    free(l);
    return NULL;
}

/* What is counted as one: of an address of IPv6 its network, as whoever has one address there has all of
 * them. One that stands for an address of IPv4 is that. */
static const void *limit_whole(const char *who, struct in6_addr *network, size_t *ret_len)
{
    if (inet_pton(AF_INET6, who, network) == 1 && !IN6_IS_ADDR_V4MAPPED(network)) {
        *ret_len = LIMIT_NETWORK_BYTES;
        return network;
    }
    *ret_len = strlen(who);
    return who;
}

/* FNV-1a from a secret start: nobody can choose whom to push out. */
static uint64_t limit_hash(const struct cp_limits *l, const char *who)
{
    uint64_t h = l->seed ^ 0xcbf29ce484222325ULL;
    struct in6_addr network;
    size_t n;
    const unsigned char *b = limit_whole(who, &network, &n);

    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * 0x100000001b3ULL;
    h ^= h >> 32;
    return h ? h : 1;
}

/* The one of `who`, or the one that has been full the longest. */
static struct limit_bucket *limit_find(struct cp_limits *l, enum cp_limit which, uint64_t who)
{
    struct limit_bucket *set = l->bucket[which][who % LIMIT_SETS], *oldest = set;

    for (int i = 0; i < LIMIT_WAYS; i++) {
        if (set[i].who == who)
            return &set[i];
        if (set[i].full_us < oldest->full_us)
            oldest = &set[i];
    }
    *oldest = (struct limit_bucket){.who = who};
    return oldest;
}

static unsigned limit_check(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t now,
                            bool take)
{
    struct limit_bucket *b;
    uint64_t cost, room_us, wait_us = 0;

    if (!l || l->cost_us[which] == 0)
        return 0;
    cost = l->cost_us[which];
    room_us = cost * l->burst[which];
    pthread_mutex_lock(&l->lock);
    b = limit_find(l, which, limit_hash(l, who));
    b->full_us = MAX(b->full_us, now);
    if (b->full_us + cost > now + room_us)
        wait_us = b->full_us + cost - now - room_us;
    else if (take)
        b->full_us += cost;
    pthread_mutex_unlock(&l->lock);
    return (unsigned)((wait_us + TB_USEC_PER_SEC - 1) / TB_USEC_PER_SEC);
}

unsigned cp_limits_take(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t monotonic_us)
{
    return limit_check(l, which, who, monotonic_us, true);
}

unsigned cp_limits_look(struct cp_limits *l, enum cp_limit which, const char *who, uint64_t monotonic_us)
{
    return limit_check(l, which, who, monotonic_us, false);
}
