/* SPDX-License-Identifier: Apache-2.0 */
/* The signature of a usage report on its way to the control plane: docs/contracts.md, "Usage reports". */
#ifndef TB_USAGE_REPORT_H
#define TB_USAGE_REPORT_H

#include <stddef.h>

#include "common/secret.h"

#define TB_REPORT_MAX 8192
#define TB_REPORT_MAC_HEX 64

/* The key that reports are signed with: derived from the asset's, and good for nothing else. 0 or -EIO. */
int tb_report_key(const struct tb_key *asset_key, struct tb_key *ret);
/* HMAC-SHA256 of text under it, lower case hex and NUL. 0 or -EIO. */
int tb_report_sign(const struct tb_key *report_key, const char *text, size_t len,
                   char out[static TB_REPORT_MAC_HEX + 1]);

#endif
