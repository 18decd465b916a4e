/* SPDX-License-Identifier: Apache-2.0 */
/* One authorize exchange with the control plane, done by a thread of its own so that a slow or dead control
 * plane never delays a release, a deadline or a stop. */
#ifndef TB_AUTHORIZE_EXCHANGE_H
#define TB_AUTHORIZE_EXCHANGE_H

#include <stdbool.h>

#include "common/config.h"
#include "authorize/grant.h"
#include "authorize/response.h"

struct authorize_exchange;

/* The key of the client certificate that would be used (TB_CLIENT_KEY_PATH, or the credential client-key) is
 * one that can be used. 0, also when there is none; -EINVAL after logging why not. */
int authorize_client_key_check(const struct tb_config *cfg);

/* Starts the thread. cfg is kept by reference. 0 or -errno. */
int authorize_exchange_new(const struct tb_config *cfg, struct authorize_exchange **ret);
/* Becomes readable when a verdict is there. */
int authorize_exchange_fd(const struct authorize_exchange *x);
bool authorize_exchange_busy(const struct authorize_exchange *x);
/* Begins an exchange; not while busy. held_version: the one that this machine serves, 0 when it knows of
 * none. report: a usage report to send along, signed with report_key; NULL: none. Copied. */
void authorize_exchange_start(struct authorize_exchange *x, uint64_t held_version, const char *report,
                              const struct tb_key *report_key);
/* Begins a look whether the control plane is there at all: cheap, and nothing of ours is in it. Its verdict
 * says look. Not while busy. */
void authorize_exchange_look(struct authorize_exchange *x);
/* Takes the verdict; false when there is none yet. */
bool authorize_exchange_take(struct authorize_exchange *x, struct authorize_verdict *ret);
/* Ends the thread. Only when not busy: an exchange in flight is ended by leaving the process. */
void authorize_exchange_free(struct authorize_exchange *x);

#endif
