/* SPDX-License-Identifier: Apache-2.0 */
/* The usage ledger: hourly quantities per counter in SQLite (WAL, synchronous=FULL). What was booked up to is remembered in the same
 * transaction as the booking, so an increment of the proxy's counters is booked exactly once, whoever dies when
 * (docs/contracts.md, "Usage counters"; design section 7, rule 6). */
#ifndef TB_LEDGER_H
#define TB_LEDGER_H

#include <stdint.h>
#include <stdio.h>

#include "macros.h"
#include "usage.h"

#define TB_LEDGER_ERR_MAX 256

struct tb_ledger;

/* Opens or creates path and checks it. -EBADMSG when it is damaged or of an unknown schema, -EIO for what else SQLite reports,
 * -EROFS with readonly when it is not there. Reason and remedy in err. */
int tb_ledger_open(const char *path, int readonly, struct tb_ledger **ret,
                   char err[static TB_LEDGER_ERR_MAX]);
void tb_ledger_close(struct tb_ledger *l);
static inline void tb_ledger_closep(struct tb_ledger **l)
{
    tb_ledger_close(*l);
    *l = NULL;
}
#define _cleanup_ledger_ _cleanup_(tb_ledger_closep)

/* Books what s has beyond the last booking of its epoch into the hour of realtime_us (UTC). One transaction. *ret_booked is the
 * sum of all increments (0: nothing new). -EBADMSG when a counter went backwards within its epoch: nothing is booked then. */
int tb_ledger_book(struct tb_ledger *l, const struct tb_usage_snapshot *s, uint64_t realtime_us,
                   uint64_t *ret_booked, char err[static TB_LEDGER_ERR_MAX]);

/* All-time quantity of a counter. */
int tb_ledger_total(struct tb_ledger *l, enum tb_usage_counter c, uint64_t *ret);

/* Prints every bucket, oldest first: a table, or one JSON array. */
int tb_ledger_print(struct tb_ledger *l, FILE *out, int json, char err[static TB_LEDGER_ERR_MAX]);

#endif
