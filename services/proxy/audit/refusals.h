/* SPDX-License-Identifier: Apache-2.0 */
/* Refusals of requests that came without a valid key: past a rate many become one record, with a count and
 * the times of the first and the last. Whoever can reach the port can cause as many of them as the line
 * carries, and must not fill the disk, or push older records out of the journal, with them. None is left
 * out: the counts add up. Pure: the caller gives the time. docs/contracts.md, "Audit chain". */
#ifndef TB_PROXY_AUDIT_REFUSALS_H
#define TB_PROXY_AUDIT_REFUSALS_H

#include "proxy/audit/record.h"

#define TB_REFUSALS_BURST 256               /* that get a record each when there were none for long */
#define TB_REFUSALS_EACH_US 10000000ULL     /* after which one more does */
#define TB_REFUSALS_FIRST_US 1000000ULL     /* how long the first are gathered; twice as long each time ... */
#define TB_REFUSALS_INTERVAL_US 64000000ULL /* ... up to this, until as long as that there are none */
#define TB_REFUSALS_GROUPS 16               /* of the same status and error; more share the last */

struct tb_refusal_group {
    struct tb_audit_record *record; /* the first, with the sums; NULL: none gathered */
    int status;                     /* 0: not used yet */
    char error[64];
    uint64_t since_us;    /* monotonic: of the first gathered */
    uint64_t interval_us; /* from then until it is due */
    uint64_t last_us;     /* of the last ever */
};
struct tb_refusals {
    uint64_t ahead_us; /* until when the single records have used up their share */
    struct tb_refusal_group group[TB_REFUSALS_GROUPS];
    uint64_t waiting; /* requests gathered and not taken yet */
};

/* True when r is to be written as it is. Else it was counted, and is freed or kept by the group. */
bool tb_refusals_add(struct tb_refusals *f, struct tb_audit_record *r, uint64_t now_us);
/* A record that is due, or any that is there: its count is no longer waiting. NULL when there is none. */
struct tb_audit_record *tb_refusals_take(struct tb_refusals *f, uint64_t now_us, bool any);
/* When the next is due; UINT64_MAX: never. */
uint64_t tb_refusals_due_us(const struct tb_refusals *f);
void tb_refusals_clear(struct tb_refusals *f);

#endif
