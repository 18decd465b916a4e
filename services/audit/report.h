/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-audit prints. */
#ifndef TB_AUDIT_REPORT_H
#define TB_AUDIT_REPORT_H

#include "audit/verify.h"

/* Problems, one a line, and the verdict as the last line. */
void tb_report_text(const struct tb_verify *v);
/* One JSON object. -ENOMEM. */
int tb_report_json(const struct tb_verify *v);

#endif
