/* SPDX-License-Identifier: Apache-2.0 */
/* The signature of a usage report on its way to the control plane: docs/contracts.md, "Usage reports". */
#ifndef TB_USAGE_REPORT_H
#define TB_USAGE_REPORT_H

#include <stddef.h>

#include "common/secret.h"

#define TB_REPORT_MAX 8192
#define TB_REPORT_MAC_HEX 64

/* HMAC-SHA256 of text under a key that is derived from the asset's key and good for nothing else. Lower case
 * hex and NUL. 0 or -EIO. */
int tb_report_mac(const struct tb_key *asset_key, const char *text, size_t len,
                  char out[static TB_REPORT_MAC_HEX + 1]);

#endif
