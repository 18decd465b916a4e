/* SPDX-License-Identifier: Apache-2.0 */
/* What the submitter tells people: the journal and the metrics. */
#ifndef CP_SUBMITTER_TELL_H
#define CP_SUBMITTER_TELL_H

#include "controlplane/store/billing.h"
#include "metering/answer.h"

/* What was logged last. Zeroed at the start. */
struct cp_submitter_said {
    bool transient, late, self_billing, without_resource;
    uint64_t ended;
};

void cp_submitter_tell_answer(struct cp_submitter_said *said, const struct tb_metering_batch *b,
                              const struct tb_metering_answer *a);
/* NULL: it is fine again. */
void cp_submitter_tell_transient(struct cp_submitter_said *said, const char *reason);
/* The state of the ledger, after a pass. */
void cp_submitter_tell_summary(struct cp_submitter_said *said, const struct cp_billing_summary *s,
                               uint64_t now_us);

#endif
