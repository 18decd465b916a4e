/* SPDX-License-Identifier: Apache-2.0 */
/* Peers whose certificates cp_peer_verify() found good a moment ago: to verify a chain costs more than all
 * else of a grant, and each try of a transaction asks again. Kept is that a chain was good for these CAs,
 * nothing else: what is not good is judged each time. Whether the machine is still one of the contract no
 * certificate says, and it is not kept here. */
#ifndef CP_PEERS_H
#define CP_PEERS_H

#include "controlplane/identity/authority.h"

#define CP_PEERS_MAX 1024
#define CP_PEER_KEPT_US 60000000ULL /* at most, and never beyond the end of a certificate of the chain */

struct cp_peers;
struct cp_peers *cp_peers_new(void); /* NULL: out of memory */
struct cp_peers *cp_peers_free(struct cp_peers *s);

/* As cp_peer_verify(), of certificates that must not have ended. s NULL: none is kept. Any thread. */
int cp_peers_identify(struct cp_peers *s, const struct cp_peer *p, const char *ca_pem, uint64_t now_us,
                      struct cp_identity *ret);

#endif
