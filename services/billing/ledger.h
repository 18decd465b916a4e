/* SPDX-License-Identifier: Apache-2.0 */
/* The ledger: what was used, and what of it the marketplace knows, in SQLite (WAL, synchronous=FULL).
 * No network and no clock here: time is an argument.
 *
 * Two tables. `used` has the hourly quantity of each counter. `event` has one row for each hour and dimension
 * that is billed; metering/event.h says what states it has and what must hold. Design section 7, rule 6;
 * docs/contracts.md, "Usage counters". */
#ifndef TB_BILLING_LEDGER_H
#define TB_BILLING_LEDGER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/db.h"
#include "common/macros.h"
#include "common/units.h"
#include "common/usage.h"
#include "metering/event.h"

#define TB_LEDGER_ERR_MAX TB_DB_ERR_MAX
/* After its end an hour stays open for so long, against small steps of the clock. */
#define TB_LEDGER_GRACE_US (300 * TB_USEC_PER_SEC)
struct tb_ledger {
    sqlite3 *db;
    sqlite3_stmt *get, *set, *add;
    uint32_t dimensions; /* by which increments are billed from now on; bits 1 << row of tb_usage_dimension */
    bool elsewhere;      /* the control plane bills them: no events are made */
};

/* Opens or creates path, checks it and brings an older one up to date: what version 1 had booked, of which
 * nothing was ever sent, is then billed by dimensions. -EBADMSG when it is damaged or of an unknown schema,
 * -EIO for what else SQLite reports. Reason and remedy in err. */
int tb_ledger_open(const char *path, bool readonly, uint32_t dimensions, struct tb_ledger **ret,
                   char err[static TB_LEDGER_ERR_MAX]);
/* Sees that path still names the ledger. When it was removed or replaced it is written again from what is
 * open, and opened there; what was in its place is set aside. 0; 1 when it was written again: *l is another;
 * -errno: *l is what it was, or NULL. */
int tb_ledger_keep(struct tb_ledger **l, const char *path, char err[static TB_LEDGER_ERR_MAX]);
void tb_ledger_close(struct tb_ledger *l);
static inline void tb_ledger_closep(struct tb_ledger **l)
{
    tb_ledger_close(*l);
    *l = NULL;
}
#define _cleanup_ledger_ _cleanup_(tb_ledger_closep)

/* Books what s has beyond the last booking of its epoch into the open hour. One transaction. *ret_booked is
 * the sum of all increments (0: nothing new). -EBADMSG when a counter went backwards within its epoch:
 * nothing is booked then. */
int tb_ledger_book(struct tb_ledger *l, const struct tb_usage_snapshot *s, uint64_t realtime_us,
                   uint64_t *ret_booked, char err[static TB_LEDGER_ERR_MAX]);

/* The open hour: the first one from now on of which no event has left OPEN. Hours count from the epoch,
 * UTC. */
int tb_ledger_open_hour(struct tb_ledger *l, uint64_t realtime_us, int64_t *ret);
/* Adds to a dimension's event of an open hour. since: the hour the usage is from. For a transaction of the
 * caller's. */
int tb_ledger_event_add(struct tb_ledger *l, int64_t hour, const char *dimension, int64_t quantity,
                        int64_t since);

/* Whether the control plane bills what is booked from now on. Durable, in one transaction with how much was
 * for this ledger to bill until now: 0 where it has no event. */
int tb_ledger_bill_elsewhere(struct tb_ledger *l, bool elsewhere, char err[static TB_LEDGER_ERR_MAX]);
/* That much, of a counter. */
int tb_ledger_self_billed(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret);

/* All-time quantity of a counter. */
int tb_ledger_total(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret);

#endif
