/* SPDX-License-Identifier: Apache-2.0 */
/* How an exchange ends: the status that stands in its audit record, the record, the metrics. */
#ifndef TB_PROXY_REQUEST_RECORD_H
#define TB_PROXY_REQUEST_RECORD_H

#include "proxy/exchange.h"

/* False: no memory. */
bool tb_record_begin_digest(struct tb_exchange *ex);
/* The digest of the body, once; what has not arrived is not in it. */
void tb_record_finish_digest(struct tb_exchange *ex);
/* Counts it, and hands its record to the audit. */
void tb_record_end(struct tb_exchange *ex, enum tb_end how, const struct tb_tokens *tokens);

/* At the end of the process. */
void tb_record_free_digests(struct tb_server *s);

#endif
