/* SPDX-License-Identifier: Apache-2.0 */
/* The keys by which instances of Azure Attestation sign: pinned in a file, or those that each instance that a
 * contract names has at URL/certs, however many they are. Any thread. */
#ifndef CP_MAA_KEYS_H
#define CP_MAA_KEYS_H

#include "controlplane/access/jwt.h"

struct cp_maa_keys;
/* pinned: a JWK set, of all instances, and nothing is fetched; NULL: none. ca_file: to fetch by, NULL: the
 * system's; lives longer. -EINVAL with a reason; -ENOMEM. */
int cp_maa_keys_new(const char *pinned, const char *ca_file, struct cp_maa_keys **ret,
                    char err[static CP_JWT_ERR_MAX]);
struct cp_maa_keys *cp_maa_keys_free(struct cp_maa_keys *k);

/* The key of this instance that the token names. May ask the network: not within a transaction. 0, and it
 * is the caller's; -EACCES: there is none of that name; -EAGAIN: not known now, or
 * not certain yet that there is none. */
int cp_maa_keys_find(struct cp_maa_keys *k, const char *issuer, const struct cp_jwt *t, struct cp_jwk *ret);

#endif
