/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon: what main.c starts, and the parts of it. These log. */
#ifndef TB_BILLING_BILLING_H
#define TB_BILLING_BILLING_H

#include "billing/azure.h"
#include "billing/clock.h"
#include "common/config.h"
#include "billing/ledger.h"
#include "billing/metering.h"

struct tb_billing {
    const struct tb_config *cfg;
    struct tb_ledger *l;
    struct billing_clock clock;
    struct billing_sender sender;
    struct tb_metering_schedule schedule;
    struct tb_azure azure;
    char *state_dir, *run_dir, *ledger_path, *usage_path;
    int lock_fd, signal_fd, step_fd;
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

/* time.c: the time that is billed by (clock.h), which is not always that of the wall clock. start: what an
 * earlier run knew. look: before each pass; *ret_book: usage can be booked now. -errno when the ledger
 * fails. */
int tb_billing_time_start(struct tb_billing *b);
int tb_billing_look(struct tb_billing *b, bool *ret_book);
uint64_t tb_billing_now(const struct tb_billing *b);
/* Makes step_fd readable when somebody sets the wall clock from now on; without one the next pass notices. */
void tb_billing_watch_steps(struct tb_billing *b);
/* report.c: takes in what the control plane says of who bills. -errno when the ledger fails. */
int tb_billing_heed(struct tb_billing *b, char err[static TB_LEDGER_ERR_MAX]);
/* submit.c: sends what is due, until there is nothing more, a transient error or a signal. -errno when the
 * ledger fails. */
int tb_billing_submit(struct tb_billing *b);
/* report.c: the state files, STATUS= and the alarms. -errno when the ledger fails. */
int tb_billing_report(struct tb_billing *b);
void tb_billing_report_answer(struct tb_billing *b, const struct tb_metering_answer *a);
void tb_billing_report_transient(struct tb_billing *b, const char *reason); /* NULL: it is fine again */

#endif
