/* SPDX-License-Identifier: Apache-2.0 */
/* The lease: a step function from (what the control plane said, the time) to (what may be served, when to ask
 * again). No I/O and no clock of its own. Design section 3, "Lease and suspension". Times ending in _boot_us
 * are CLOCK_BOOTTIME, in _real_us CLOCK_REALTIME; a wall clock stepped after receipt moves no deadline. */
#ifndef TB_AUTHORIZE_LEASE_H
#define TB_AUTHORIZE_LEASE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/backoff.h"
#include "common/io.h"
#include "common/units.h"
#include "authorize/response.h"

#define TB_LEASE_RETRY_BASE_MS 2000 /* 2, 4, 8, ... */
#define TB_LEASE_RETRY_CAP_MS 60000
#define TB_LEASE_DENIED_BASE_MS 10000 /* a denied machine asks again, and resumes by itself */
#define TB_LEASE_TRIES 4 /* failures in a row after which an authorized lease counts as unreachable */
#define TB_LEASE_RENEW_MIN_MS 1000
/* So that a revocation is noticed within minutes, however long the lease. */
#define TB_LEASE_RENEW_MAX_MS (300 * 1000)
#define TB_LEASE_SPACING_US 1000000 /* between asking because somebody wants it now */
/* A lease that ends later ends then: with any grace its deadline is an integer of JSON. */
#define TB_LEASE_LONGEST_US (100 * 366 * 86400ULL * TB_USEC_PER_SEC)

struct tb_clock {
    uint64_t boot_us, real_us;
    char boot_id[TB_BOOT_ID_MAX]; /* of what boot boot_us is; "" when that is not known */
};
struct tb_clock tb_clock_now(void);

struct tb_lease {
    enum tb_lease_state state;
    bool suspended;
    char reason[TB_REASON_MAX];  /* why suspended, unreachable or pending; "" when authorized */
    char trouble[TB_REASON_MAX]; /* why the last try failed; "" after an answer */
    bool billed_by_control_plane;
    uint64_t asset_version;      /* that the control plane wants served; 0: it knows of none */
    struct tb_attested attested; /* the last time, whatever came since */
    uint64_t grace_us;
    uint64_t expires_real_us; /* 0: the lease does not end by itself */
    uint64_t expires_boot_us;
    uint64_t deadline_boot_us; /* expiry + grace; 0: none */
    uint64_t renewed_real_us;  /* 0: never */
    uint64_t next_request_boot_us;
    uint64_t not_before_boot_us; /* a Retry-After, or the spacing */
    unsigned failures;           /* in a row */
    struct tb_backoff backoff;
};

/* Pending, to be asked at once. */
void tb_lease_init(struct tb_lease *l, uint64_t grace_us, const struct tb_clock *now);
/* A suspension survives a restart, with its reason. */
void tb_lease_restore_suspended(struct tb_lease *l, const char *reason);
/* So does the right to serve until the deadline (0: no deadline), and what was known of the control plane:
 * NULL, or why it could not be reached. Not after tb_lease_restore_suspended(). */
void tb_lease_restore_serving(struct tb_lease *l, uint64_t expires_real_us, uint64_t deadline_boot_us,
                              uint64_t renewed_real_us, const char *unreachable);

/* Takes a verdict in. */
void tb_lease_apply(struct tb_lease *l, const struct authorize_verdict *v, const struct tb_clock *now);
/* Lets time pass. True when the state changed. */
bool tb_lease_tick(struct tb_lease *l, const struct tb_clock *now);
/* Asks as soon as the control plane's wishes allow. */
void tb_lease_ask_soon(struct tb_lease *l, const struct tb_clock *now);

bool tb_lease_due(const struct tb_lease *l, const struct tb_clock *now);
/* When tick is next needed or, unless an exchange is under way (asking), the next question is due.
 * CLOCK_BOOTTIME; UINT64_MAX: never. */
uint64_t tb_lease_wakeup_us(const struct tb_lease *l, bool asking);
/* Authorized or unreachable within grace, and not suspended. */
bool tb_lease_serving(const struct tb_lease *l);

#endif
