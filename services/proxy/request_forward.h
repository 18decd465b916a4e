/* SPDX-License-Identifier: Apache-2.0 */
/* What an exchange passes on: the request's head to the runtime, the answer's to the client, and the end of
 * the runtime's work. */
#ifndef TB_PROXY_REQUEST_FORWARD_H
#define TB_PROXY_REQUEST_FORWARD_H

#include "proxy/exchange.h"

/* Fields for the runtime: those of the client that are end to end, and our own. t: the request's target.
 * What memory cannot hold shows in the buffer's error. */
void tb_forward_request_fields(const struct tb_exchange *ex, const struct tb_request *rq,
                               const struct tb_target *t, struct tb_buf *out);
/* Fields for the client: those of the runtime's answer and our own. *ret_has_date: one of them is Date. */
void tb_forward_answer_fields(const struct tb_exchange *ex, const struct tb_response *up, struct tb_buf *out,
                              bool *ret_has_date);
/* Our own alone: X-Request-Id, limits, origins. */
void tb_forward_own_fields(const struct tb_exchange *ex, struct tb_buf *out);
/* Stops the runtime's work. */
void tb_forward_cancel(struct tb_exchange *ex);

#endif
