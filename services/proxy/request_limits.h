/* SPDX-License-Identifier: Apache-2.0 */
/* An exchange and the limits of its API key: entering, reserving tokens, settling, and what the client is
 * told. */
#ifndef TB_PROXY_REQUEST_LIMITS_H
#define TB_PROXY_REQUEST_LIMITS_H

#include "proxy/exchange.h"

/* Some key has a budget: what the runtime can do has to be known. server: struct tb_server. */
bool tb_quota_has_budgets(void *server);
/* At the head, after tb_metering_begin(). False: ex->error says why not. */
bool tb_quota_enter(struct tb_exchange *ex, const struct tb_request *h);
/* What the request asks for. Once the rewrite has seen all of it. */
void tb_quota_size(const struct tb_exchange *ex, struct tb_request_size *ret);
/* At the end of the body, when ex->rewrite knows what it asks for and the runtime cannot begin yet. False:
 * ex->error. */
bool tb_quota_reserve(struct tb_exchange *ex);
/* A body that should be a JSON object is over and was none. False when that matters for the key:
 * ex->error. */
bool tb_quota_incomplete(struct tb_exchange *ex);
/* Settles and books. */
void tb_quota_end(struct tb_exchange *ex, const struct tb_tokens *tokens);
/* x-ratelimit-limit-, -remaining- and -reset-requests and -tokens as OpenAI names them, and -budget. */
void tb_quota_headers(const struct tb_exchange *ex, struct tb_buf *out);

#endif
