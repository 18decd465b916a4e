/* SPDX-License-Identifier: Apache-2.0 */
/* Responses that a runtime writes in the background: the POST that asked for one ends before it is known
 * what it costs, and the usage comes with a GET of it. Until then its reservation is held, and the estimate
 * of it stands in the file of answers in flight, so that what is never fetched is counted after all: by the
 * next process, or when there are too many. Counted once. */
#ifndef TB_PROXY_BACKGROUND_H
#define TB_PROXY_BACKGROUND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tb_exchange;
struct tb_tokens;

#define TB_BACKGROUND_MAX 1024 /* responses that wait to be fetched */

struct tb_background;
/* What the response may cost, until that is known: what its slot says. */
void tb_background_estimate(const struct tb_exchange *ex, struct tb_tokens *ret);
/* At the end of a POST whose answer is still to come: takes over reservation and slot. False when it
 * cannot. */
bool tb_background_defer(struct tb_exchange *ex);
/* The answer to a GET of /responses/ID, or to a POST of its /cancel: prepares to count it, when it is one
 * that waits. When the runtime has it no more (404, DELETE) it is counted as estimated. */
bool tb_background_claim(struct tb_exchange *ex, int status);
/* The answer has brought the usage: the response waits no longer, and its account pays. */
void tb_background_settle(struct tb_exchange *ex, uint64_t tokens);
/* What still waits stays in the file of answers in flight. */
void tb_background_free(struct tb_background *b);

#endif
