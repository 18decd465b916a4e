/* SPDX-License-Identifier: Apache-2.0 */
/* The places where an asset lies, dealt to machines: each machine has an order of its own, which stays the
 * same, and each place is the first of as many machines as any other. By rendezvous hashing, so that a place
 * that comes or goes moves only the machines that it must. No I/O. */
#ifndef CP_DEAL_H
#define CP_DEAL_H

#include "controlplane/blob/sas.h"

#define CP_PLACES_MAX 16
#define CP_DEALT_MAX 3 /* the first, and what the machine falls back to */

struct cp_blob_place {
    char ciphertext_url[CP_URL_MAX + 1], manifest_url[CP_URL_MAX + 1];
};
struct cp_places {
    size_t n;
    struct cp_blob_place v[CP_PLACES_MAX];
};

/* Numbers of places, best first: n or CP_DEALT_MAX of them. Returns how many. */
size_t cp_deal(const struct cp_places *p, const char *machine, size_t ret[static CP_DEALT_MAX]);

#endif
