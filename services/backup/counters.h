/* SPDX-License-Identifier: Apache-2.0 */
/* The mapped files of tb-proxy, copied while it writes them. */
#ifndef TB_BACKUP_COUNTERS_H
#define TB_BACKUP_COUNTERS_H

#include "backup/member.h"

/* Adds usage, keys and flight, as far as they exist in dir (STATE/tb-proxy), as a kill of tb-proxy at one
 * instant would leave them: each token is either counted or in flight. -EBADMSG when one of them is
 * something else, *ret_bad is its name; -EBUSY when no such instant came in BACKUP_COUNTERS_WAIT_US. */
#define BACKUP_COUNTERS_WAIT_US (20 * TB_USEC_PER_SEC)
int backup_counters_add(struct backup_set *s, const char *dir, const char **ret_bad);

#endif
