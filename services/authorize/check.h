/* SPDX-License-Identifier: Apache-2.0 */
/* What of the settings only tb-authorize can judge. */
#ifndef TB_AUTHORIZE_CHECK_H
#define TB_AUTHORIZE_CHECK_H

#include "common/config.h"
#include "common/findings.h"

void authorize_check(const struct tb_config *c, struct tb_findings *f);

#endif
