/* SPDX-License-Identifier: Apache-2.0 */
/* What a machine is now, as a backup: settings and state, and on request what may hold secrets. */
#ifndef TB_BACKUP_COLLECT_H
#define TB_BACKUP_COLLECT_H

#include "backup/places.h"
#include "common/outcome.h"

/* Reads settings and state while the daemons run. The ledger comes first and the counters after it, so
 * that the counters never lack what the ledger has booked. damaged_ok: a ledger that is damaged is left
 * out, and *ret_damaged set. 0 or an exit code. */
int backup_collect(const struct backup_places *p, bool damaged_ok, struct backup_set **ret, bool *ret_damaged,
                   struct tb_outcome *o);
/* /etc/credstore/trustbridge.*, what is beside trustbridge.env, drop-ins of our units. Empty: there is
 * none. */
int backup_collect_secrets(const struct backup_places *p, struct backup_set **ret, struct tb_outcome *o);

#endif
