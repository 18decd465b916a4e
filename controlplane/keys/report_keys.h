/* SPDX-License-Identifier: Apache-2.0 */
/* The keys that usage reports are signed with (common/usage_report.h), of asset keys that were unwrapped
 * before. A report comes with refused requests too, and whoever sends it may have signed it with the key of
 * any version, or none: without these, a few requests each second of somebody who gets nothing would be a key
 * service's whole quota. They open nothing. */
#ifndef CP_REPORT_KEYS_H
#define CP_REPORT_KEYS_H

#include "controlplane/keys/keyring.h"

#define CP_REPORT_KEYS_MAX 256

struct cp_report_keys;
struct cp_report_keys *cp_report_keys_new(void); /* NULL: out of memory */
struct cp_report_keys *cp_report_keys_free(struct cp_report_keys *k);

/* Of the asset's key that w is; what is not known yet is unwrapped, and kept. k NULL: none is kept. As
 * cp_keyring_unwrap(). Any thread. */
int cp_report_keys_get(struct cp_report_keys *k, struct cp_keyring *ring, const char *asset_id,
                       const struct cp_wrapped *w, struct tb_key *ret);

#endif
