/* SPDX-License-Identifier: Apache-2.0 */
/* The submitter's ledger in the database, as metering/schedule.h wants it, for one term. No clock and no
 * network. -ESTALE from any of these: another term has begun. */
#ifndef CP_SUBMITTER_LEDGER_H
#define CP_SUBMITTER_LEDGER_H

#include "controlplane/store/billing.h"
#include "metering/schedule.h"

/* After its end an hour stays open for so long: machines report with each renewal of their lease. */
#define CP_SUBMITTER_GRACE_US (2 * TB_USEC_PER_HOUR)

struct cp_submitter_ledger {
    struct cp_store *s;
    uint64_t term;
};

struct tb_metering_ledger cp_submitter_ledger(struct cp_submitter_ledger *l);

/* Books what machines have reported, one source after the other. *ret_booked: the sum of all increments. */
int cp_submitter_book(struct cp_submitter_ledger *l, uint64_t now_us, uint64_t *ret_booked,
                      char err[static TB_METERING_ERR_MAX]);
int cp_submitter_advance(struct cp_submitter_ledger *l, uint64_t now_us, uint64_t grace_us,
                         unsigned *ret_moved, char err[static TB_METERING_ERR_MAX]);

#endif
