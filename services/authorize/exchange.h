/* SPDX-License-Identifier: Apache-2.0 */
/* One authorize exchange with the control plane, done by a thread of its own so that a slow or dead control plane never
 * delays a release, a deadline or a stop. */
#ifndef TB_AUTHORIZE_EXCHANGE_H
#define TB_AUTHORIZE_EXCHANGE_H

#include <stdbool.h>

#include "common/config.h"
#include "authorize/grant.h"
#include "authorize/response.h"

struct tb_exchange;

/* Starts the thread. cfg is kept by reference. 0 or -errno. */
int tb_exchange_new(const struct tb_config *cfg, struct tb_exchange **ret);
/* Becomes readable when a verdict is there. */
int tb_exchange_fd(const struct tb_exchange *x);
bool tb_exchange_busy(const struct tb_exchange *x);
/* Begins an exchange; not while busy. report: a usage report to send along, signed with grant's key; NULL: none. Copied. */
void tb_exchange_start(struct tb_exchange *x, const char *report, const struct tb_grant *grant);
/* Takes the verdict; false when there is none yet. */
bool tb_exchange_take(struct tb_exchange *x, struct tb_verdict *ret);
/* Ends the thread. Only when not busy: an exchange in flight is ended by leaving the process. */
void tb_exchange_free(struct tb_exchange *x);

#endif
