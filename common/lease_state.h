/* SPDX-License-Identifier: Apache-2.0 */
/* lease.json: what tb-authorize writes about the lease and what tb-proxy, tb-status and the next tb-authorize
 * read. docs/contracts.md, "Domain files". Times ending in _real_us are CLOCK_REALTIME, in _boot_us
 * CLOCK_BOOTTIME. */
#ifndef TB_LEASE_STATE_H
#define TB_LEASE_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config.h"
#include "common/io.h"

#define TB_REASON_MAX 256 /* bytes of a reason in any domain file, its NUL included */

enum tb_lease_state {
    TB_LEASE_ABSENT,  /* no lease.json, or none that can be understood; never written */
    TB_LEASE_PENDING, /* no answer yet */
    TB_LEASE_AUTHORIZED,
    TB_LEASE_UNREACHABLE, /* authorized earlier; no answer now; serving until the deadline */
    TB_LEASE_DENIED,
    TB_LEASE_EXPIRED, /* unreachable past the deadline */
    _TB_LEASE_STATE_MAX,
};

/* What the control plane saw shown of this machine, the last time that it asked (docs/attestation.md). */
#define TB_ATTESTED_NAME_MAX 64
struct tb_attested {
    char level[16]; /* "": it never asked, or does no more */
    char image[TB_ATTESTED_NAME_MAX + 1], version[TB_ATTESTED_NAME_MAX + 1]; /* where the level has one */
    uint64_t at_real_us;
};

struct tb_lease_record {
    enum tb_lease_state state;
    char reason[TB_REASON_MAX];
    char contract_id[TB_ID_MAX + 1], asset_id[TB_ID_MAX + 1];
    bool billed_by_control_plane;  /* tb-billing makes no metering events of what is used */
    uint64_t asset_version;        /* the one that the control plane wants served; 0: it does not say */
    bool has_expiry, has_deadline; /* neither: the lease does not end by itself */
    uint64_t expires_real_us;
    uint64_t deadline_boot_us;   /* expiry and grace */
    uint64_t renewed_real_us;    /* 0: never */
    struct tb_attested attested; /* also after a refusal */
    /* Both clocks when the file was written, and the kernel's id of the boot ("": unknown): CLOCK_BOOTTIME
     * means nothing in another one. */
    uint64_t written_real_us, written_boot_us;
    char boot_id[TB_BOOT_ID_MAX];
};

/* The word for a state in lease.json, and back; an unknown word is TB_LEASE_ABSENT. */
const char *tb_lease_state_name(enum tb_lease_state s);
enum tb_lease_state tb_lease_state_from_name(const char *name);

#define TB_LEASE_NAME "lease.json"                  /* in tb-authorize's runtime directory */
#define TB_LEASE_FILE "tb-authorize/" TB_LEASE_NAME /* below TB_RUN_DIR */

/* 0 or -errno. */
int tb_lease_record_write(const char *dir, const struct tb_lease_record *r);
/* name: one of the two above, below dir. A member that is absent or not what it should be reads as empty or
 * 0; so a deadline that is not a number has passed. -ENOENT when there is no such file, -EBADMSG when it is
 * not a JSON object. */
int tb_lease_record_read(const char *dir, const char *name, struct tb_lease_record *ret);

#endif
