/* SPDX-License-Identifier: Apache-2.0 */
/* The release socket: who asks, what they may have, and connections that wait. docs/contracts.md,
 * "Credentials". systemd connects as uid 0 from the abstract address "\0<hex>/unit/<unit>/<credential>",
 * sends nothing and reads to the end; an empty answer is a refusal. Anybody can bind such an address, so the
 * name counts only together with uid 0. */
#ifndef TB_AUTHORIZE_RELEASE_H
#define TB_AUTHORIZE_RELEASE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "authorize/grant.h"
#include "authorize/lease.h"

#define TB_RELEASE_WAITING_MAX 64 /* more wait in the listen queue */
#define TB_RELEASE_NAME_MAX 108   /* sizeof(sun_path) */
#define TB_RELEASE_RENEW_WAIT_US (20 * 1000000ULL)
#define TB_RELEASE_REUSE_US (5 * 1000000ULL)       /* a URL handed out longer ago is renewed first */
#define TB_RELEASE_SAS_MARGIN_US (60 * 1000000ULL) /* so is one that ends within this time */

enum tb_credential {
    TB_CRED_SAS_URL,
    TB_CRED_MANIFEST_URL,
    TB_CRED_MANIFEST_SHA256,
    TB_CRED_MODEL_KEY,
    _TB_CRED_MAX,
    _TB_CRED_INVALID = -1,
};

struct tb_peer {
    char unit[TB_RELEASE_NAME_MAX];
    char credential[TB_RELEASE_NAME_MAX];
};

/* Splits an abstract peer name: path[0..len) is sun_path with its leading NUL. -EINVAL unless it is exactly
 * "\0<1 to 32 hex digits>/unit/<unit>/<credential>" of characters units and credentials are made of. */
int tb_peer_parse(const char *path, size_t len, struct tb_peer *ret);
/* The credential this peer may have, _TB_CRED_INVALID when none. */
enum tb_credential tb_peer_credential(const struct tb_peer *p);

enum tb_release_answer { TB_RELEASE_GIVE, TB_RELEASE_REFUSE, TB_RELEASE_WAIT, TB_RELEASE_RENEW };

/* When the grant came, and when each of its credentials was first handed out (a client that restarts every
 * other second must not keep an old URL young). CLOCK_BOOTTIME, 0: never. */
struct tb_handouts {
    uint64_t granted_us;
    uint64_t first_us[_TB_CRED_MAX];
};

/* What a request for cred deserves now. grant may be NULL. RENEW: give it, but ask the control plane for a
 * fresh one first. */
enum tb_release_answer tb_release_decide(const struct tb_lease *l, const struct tb_grant *grant,
                                         const struct tb_handouts *h, enum tb_credential cred,
                                         const struct tb_clock *now);
/* The bytes of a credential, owned by the grant. */
const void *tb_release_value(const struct tb_grant *g, enum tb_credential cred, size_t *ret_len);

/* A connection that waits, for a renewal as a rule. */
struct tb_waiting {
    int fd;
    enum tb_credential cred;
    struct tb_peer peer;
    uint64_t exchange;    /* the exchange it waits for; 0: none */
    uint64_t deadline_us; /* for the renewal, CLOCK_BOOTTIME */
};

struct tb_releases {
    int listen_fd;
    size_t n;
    struct tb_waiting waiting[TB_RELEASE_WAITING_MAX];
};

/* Takes connections while there is room; refusals are answered (empty) and logged here. */
void tb_releases_accept(struct tb_releases *r);
/* Answers waiting[i] with value, or refuses it with the reason why, logs that, and closes. The last one takes
 * its place. */
void tb_releases_give(struct tb_releases *r, size_t i, const struct tb_grant *g);
void tb_releases_refuse(struct tb_releases *r, size_t i, const char *why);
/* Drops waiting[i], whose peer is gone. */
void tb_releases_drop(struct tb_releases *r, size_t i);

#endif
