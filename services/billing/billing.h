/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon: what main.c starts, and the parts of it. These log. */
#ifndef TB_BILLING_BILLING_H
#define TB_BILLING_BILLING_H

#include "billing/azure.h"
#include "common/config.h"
#include "billing/ledger.h"
#include "billing/schedule.h"

struct tb_billing {
    const struct tb_config *cfg;
    struct tb_ledger *l;
    struct billing_schedule schedule;
    struct tb_azure azure;
    char *state_dir, *run_dir, *ledger_path, *usage_path;
    int lock_fd, signal_fd;
    bool stop;
    uint64_t give_up_us; /* of the last pass before the end; CLOCK_BOOTTIME, 0: none */
    bool waiting;        /* no counters yet */
    /* what was logged last */
    bool transient_logged, late_logged;
    char ended_logged[TB_METERING_REASON_MAX];
    bool ended_known;
};

/* Takes signals that are there; true when it is time to stop. */
bool tb_billing_stopping(struct tb_billing *b);

/* submit.c: sends what is due, until there is nothing more, a transient error or a signal. -errno when the
 * ledger fails. */
int tb_billing_submit(struct tb_billing *b);
/* report.c: the state files, STATUS= and the alarms. -errno when the ledger fails. */
int tb_billing_report(struct tb_billing *b);
void tb_billing_report_answer(struct tb_billing *b, const struct billing_answer *a);
void tb_billing_report_transient(struct tb_billing *b, const char *reason); /* NULL: it is fine again */

#endif
