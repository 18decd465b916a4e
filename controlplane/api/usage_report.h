/* SPDX-License-Identifier: Apache-2.0 */
/* A usage report as it comes with an authorize request: docs/contracts.md, "Usage reports". No I/O. */
#ifndef CP_USAGE_REPORT_H
#define CP_USAGE_REPORT_H

#include "controlplane/api/request.h"
#include "controlplane/store/usage.h"

/* Reads the report of q, all but what the signature says. Unknown members are ignored, counters that are no
 * numbers too. -EBADMSG: not a report, or without a time; err says why. */
int cp_usage_report_parse(const struct cp_authorize *q, struct cp_usage_report *ret,
                          char err[static TB_JSON_ERR_MAX]);
/* Whether who made the report has the asset's key. */
bool cp_usage_report_signed(const struct cp_authorize *q, const struct tb_key *asset_key);

#endif
