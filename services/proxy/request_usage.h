/* SPDX-License-Identifier: Apache-2.0 */
/* An exchange's tokens: its body through the request rewrite on the way to the runtime, the answer through
 * the usage parser on the way back, the sum into the usage counters. */
#ifndef TB_PROXY_REQUEST_USAGE_H
#define TB_PROXY_REQUEST_USAGE_H

#include "proxy/exchange.h"

/* Before the call starts: decides whether the body is looked at. */
void tb_metering_begin(struct tb_exchange *ex, const struct tb_request *h);
/* Body bytes on their way: how many were taken; 0: wait. -ENOMEM. */
ssize_t tb_metering_upload(struct tb_exchange *ex, const char *p, size_t n);
/* The body is over. False: wait, then call again. */
bool tb_metering_upload_end(struct tb_exchange *ex);
/* True when waiting for room in the upload is pointless: the runtime has answered or failed. */
bool tb_metering_answered(const struct tb_exchange *ex);
/* The answer's head is here. */
void tb_metering_answer(struct tb_exchange *ex, const struct tb_response *up);
/* As tb_call_read(). */
ssize_t tb_metering_read(struct tb_exchange *ex, char *buf, size_t n);
/* A comment line may stand where the answer is now: it is events, and the client has whole lines of them. */
bool tb_metering_may_comment(const struct tb_exchange *ex);
/* Books what the exchange cost and frees what it held. delivered: the client took all of it. */
void tb_metering_end(struct tb_exchange *ex, bool delivered, struct tb_tokens *ret);

#endif
