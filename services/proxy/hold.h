/* SPDX-License-Identifier: Apache-2.0 */
/* Requests that arrive while one version of the model is replaced by another wait, instead of being refused:
 * unread, in their connections, until the new runtime is well or TB_SWITCH_HOLD has passed since the switch
 * began. docs/versions.md. */
#ifndef TB_PROXY_HOLD_H
#define TB_PROXY_HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "common/service_state.h"

/* Whether one that could be served shall wait now. Pure. */
bool tb_hold_wanted(const struct tb_facts *f, const struct tb_verdict *v, uint64_t now_boottime_us);
/* hold() of the handler; arg: struct tb_server. */
bool tb_hold_request(void *arg, const char *p, size_t n);

#endif
