/* SPDX-License-Identifier: Apache-2.0 */
/* What a usage report says of the ledger beside its totals: which ledger it is, and the totals of its last
 * hours. docs/contracts.md, "Usage reports". */
#ifndef TB_BILLING_HOURS_H
#define TB_BILLING_HOURS_H

#include <cjson/cJSON.h>

#include "billing/ledger.h"

#define BILLING_LEDGER_ID_MAX 33 /* 32 hex digits */
#define BILLING_HOURS_MAX 26     /* a marketplace takes events for 24 */

/* The ledger's random id, made when it has none. It goes where the file goes: a copy has the same. 0 or
 * -errno. */
int billing_ledger_id(struct tb_ledger *l, char out[static BILLING_LEDGER_ID_MAX]);

/* Adds "hours": the totals of the last hours with usage up to realtime_us, newest first, each {"hour",
 * "used"}, counters that are 0 left out; as many as keep the document within max bytes. */
int billing_hours_add(struct tb_ledger *l, uint64_t realtime_us, size_t max, cJSON *report);

#endif
