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
#define TB_RELEASE_LONG_WAIT_US (2 * 1000000ULL)   /* after which others do not wait again */
#define TB_RELEASE_REUSE_US (5 * 1000000ULL)       /* a URL handed out longer ago is renewed first */
#define TB_RELEASE_SAS_MARGIN_US (60 * 1000000ULL) /* so is one that ends within this time */

enum tb_credential {
    TB_CRED_SAS_URL,
    TB_CRED_MANIFEST_URL,
    TB_CRED_MANIFEST_SHA256,
    TB_CRED_MODEL_KEY,
    TB_CRED_ASSET_VERSION,
    TB_CRED_BASE_URLS,
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
/* Of which version: the one that the machine serves, or the one that the control plane wants served next. */
enum tb_release_for { TB_RELEASE_FOR_SERVING, TB_RELEASE_FOR_NEXT, _TB_RELEASE_FOR_MAX };
enum tb_release_for tb_peer_for(const struct tb_peer *p);

enum tb_release_answer { TB_RELEASE_GIVE, TB_RELEASE_REFUSE, TB_RELEASE_WAIT, TB_RELEASE_RENEW };

/* When the grant came, and when each of its credentials was first handed out (a client that restarts every
 * other second must not keep an old URL young). CLOCK_BOOTTIME, 0: never. */
struct tb_handouts {
    uint64_t granted_us;
    uint64_t first_us[_TB_CRED_MAX];
};

/* As which credential tb_release_decide() is to judge what this peer asks for: all that a download starts
 * with is renewed with its URL, so that it is of one version whatever is asked for first. */
enum tb_credential tb_release_judged_as(const struct tb_peer *p);
/* What a request for cred deserves now. grant may be NULL. RENEW: give it, but ask the control plane for a
 * fresh one first. */
enum tb_release_answer tb_release_decide(const struct tb_lease *l, const struct tb_grant *grant,
                                         const struct tb_handouts *h, enum tb_credential cred,
                                         const struct tb_clock *now);
/* The grant for a peer: of the version `serving` that the machine serves (0: none that it knows of), else of
 * the current one; the one that is downloaded next is current. NULL: none. *ret_missing: the serving one is
 * not here, and the control plane must be asked for it. */
const struct tb_grant *tb_release_grant(const struct tb_grants *g, enum tb_release_for whom, uint64_t serving,
                                        bool *ret_missing);
/* The bytes of a credential, owned by the grant or in number. */
const void *tb_release_value(const struct tb_grant *g, enum tb_credential cred, char number[static 24],
                             size_t *ret_len);

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
