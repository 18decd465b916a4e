/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-proxy would refuse of its settings, and of the files that they name, without starting it. */
#ifndef TB_PROXY_CHECK_H
#define TB_PROXY_CHECK_H

#include "common/config.h"

void tb_proxy_check(const struct tb_config *c, struct tb_findings *f);

#endif
