/* SPDX-License-Identifier: Apache-2.0 */
/* A usage report as it comes with an authorize request: docs/contracts.md, "Usage reports". */
#ifndef CP_USAGE_REPORT_H
#define CP_USAGE_REPORT_H

#include "controlplane/api/request.h"
#include "controlplane/identity/authority.h"
#include "controlplane/store/usage.h"

/* Reads the report of q, all but what the signature says. Unknown members are ignored, counters that are no
 * numbers too. -EBADMSG: not a report, or without a time; err says why. */
int cp_usage_report_parse(const struct cp_authorize *q, struct cp_usage_report *ret,
                          char err[static TB_JSON_ERR_MAX]);
/* Whether who made the report has the asset's key; report_key: tb_report_key() of that. */
bool cp_usage_report_signed(const struct cp_authorize *q, const struct tb_key *report_key);
/* Whether who sends it is a machine of the contract, or was: every customer of an asset has its key. who: by
 * its certificate, perhaps one that has ended; without a name: by none that is good for the contract. */
int cp_usage_report_is_own(struct cp_store *s, const struct cp_contract *c, const struct cp_identity *who,
                           bool *ret);

#endif
