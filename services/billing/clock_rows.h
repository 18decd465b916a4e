/* SPDX-License-Identifier: Apache-2.0 */
/* What the ledger keeps of the clock: the anchor, which outlives the process, and each step that was
 * noticed. Each function is one durable transaction or a read. */
#ifndef TB_BILLING_CLOCK_ROWS_H
#define TB_BILLING_CLOCK_ROWS_H

#include <cjson/cJSON.h>

#include "billing/clock.h"
#include "billing/ledger.h"

/* None that can be understood: *ret has an empty boot_id. */
int billing_anchor_read(struct tb_ledger *l, struct billing_anchor *ret);
int billing_anchor_write(struct tb_ledger *l, const struct billing_anchor *a);
/* event: a word. at_us: the billed time; off_us: of the wall clock against it, or how far the billed time
 * moved. */
int billing_step_add(struct tb_ledger *l, const char *event, uint64_t at_us, int64_t off_us);

/* What was noticed, oldest first: a table, or the member clock_steps; nothing when nothing was. */
int billing_steps_print(struct tb_ledger *l, FILE *out);
int billing_steps_add(struct tb_ledger *l, cJSON *o);

#endif
