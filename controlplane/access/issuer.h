/* SPDX-License-Identifier: Apache-2.0 */
/* Who signs tokens that are good here. His keys are fetched, kept, and fetched again when they are old or
 * a token names one that is not among them: a few times at once, then slowly, as anybody may name one. Any
 * thread. */
#ifndef CP_ISSUER_H
#define CP_ISSUER_H

#include "controlplane/access/jwt.h"

#define CP_ISSUER_URL_MAX 1024
#define CP_ISSUER_FRESH_US (3600ULL * 1000000)
#define CP_ISSUER_STALE_US (24 * 3600ULL * 1000000) /* so long keys are good while the issuer is away */

struct cp_issuer_settings {
    const char *url;     /* as it stands in his tokens (iss); copied */
    const char *ca_file; /* NULL: the system's; lives longer */
    bool discovery;      /* his keys are where OpenID Connect Discovery says, else at URL/certs */
    unsigned burst;      /* so many times at once */
    uint64_t refill_us;  /* and then once in this time */
    uint64_t certain_us; /* so long keys that were fetched say that he has no others */
    /* They say so of a name only where keys that were fetched so long before lacked it as well, and it was
     * asked for then: a service of many front ends may sign by a key that one of them does not list yet. */
    uint64_t confirm_us;
};

struct cp_issuer;
/* https://, or http:// of this machine; without a query. */
bool cp_issuer_url_good(const char *url);
/* -EINVAL: the URL is none; -ENOMEM. */
int cp_issuer_new(const struct cp_issuer_settings *settings, struct cp_issuer **ret);
struct cp_issuer *cp_issuer_free(struct cp_issuer *i);
const char *cp_issuer_url(const struct cp_issuer *i);

/* The key that the token names. 0, and it is the caller's; -EACCES: he has none of that name; -EAGAIN: his
 * keys cannot be fetched now, or do not have the name yet: both are logged. */
int cp_issuer_find(struct cp_issuer *i, const struct cp_jwt *t, struct cp_jwk *ret);

#endif
