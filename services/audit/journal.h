/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records from the journal. */
#ifndef TB_AUDIT_JOURNAL_H
#define TB_AUDIT_JOURNAL_H

#include "audit/verify.h"

struct tb_journal_query {
    const char *space;     /* namespace */
    const char *directory; /* instead of it: a directory of journal files */
    uint64_t since_us;     /* realtime; 0: from the start */
};

/* Reads the audit entries. Only those of tb-proxy.service count, as anybody may write others; v->foreign
 * counts these. Waits a little for entries that are on their way. 0 or -errno. */
int tb_journal_verify(struct tb_verify *v, const struct tb_journal_query *q);

#endif
