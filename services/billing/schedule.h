/* SPDX-License-Identifier: Apache-2.0 */
/* When to send which hour: a step function from (the ledger, the time, the last answer) to (the next
 * request). No network and no clock of its own; a caller that dies between any two of its steps is followed
 * by one that starts with an empty schedule.
 *
 *   billing_schedule_due() -> have a token -> billing_schedule_next() -> POST the body ->
 *   billing_schedule_answer(), and again until next has nothing.
 */
#ifndef TB_BILLING_SCHEDULE_H
#define TB_BILLING_SCHEDULE_H

#include "billing/answer.h"
#include "common/backoff.h"
#include "billing/metering.h"

#define BILLING_SCHEDULE_RETRY_BASE_MS 5000
#define BILLING_SCHEDULE_RETRY_CAP_MS (10 * 60 * 1000)
#define BILLING_SCHEDULE_PARKED_US TB_USEC_PER_HOUR /* between tries of what is parked */

struct billing_schedule {
    const char *plan_id;
    struct tb_backoff backoff;
    uint64_t not_before_us;  /* after a transient error; CLOCK_BOOTTIME */
    uint64_t parked_next_us; /* when parked events are tried again */
    unsigned forbidden;      /* 403 answers in a row */
    /* of the pass under way */
    bool passing, parked, again;
    unsigned most; /* events in a request */
    int64_t after_hour;
    char after_dimension[32];
    struct tb_metering_batch batch; /* sent, not answered */
};
void billing_schedule_init(struct billing_schedule *m, const char *plan_id);

/* Whether there is something to send now. */
int billing_schedule_due(struct billing_schedule *m, struct tb_ledger *l, uint64_t realtime_us,
                         uint64_t boottime_us, bool *ret);
/* Before a request could be made (no token, no resource id): wait as after a bad answer. */
void billing_schedule_postpone(struct billing_schedule *m, uint64_t boottime_us, int64_t retry_after_ms);

/* Takes the next events of this pass. *ret_body (heap) is the request, NULL when the pass is over; its id is
 * in m->batch. */
int billing_schedule_next(struct billing_schedule *m, struct tb_ledger *l, const char *resource,
                          uint64_t realtime_us, uint64_t boottime_us, char **ret_body,
                          char err[static TB_LEDGER_ERR_MAX]);

/* What came of that request. */
struct billing_schedule_result {
    bool answered, reached; /* reached: some of the request may have arrived */
    long status;
    const char *body; /* answered */
    size_t len;
    int64_t retry_after_ms; /* -1: none */
    const char *reason;     /* not answered: why */
};
/* Enters it; what it meant is in *ret, for the log. */
int billing_schedule_answer(struct billing_schedule *m, struct tb_ledger *l,
                            const struct billing_schedule_result *x, uint64_t realtime_us,
                            uint64_t boottime_us, struct billing_answer *ret,
                            char err[static TB_LEDGER_ERR_MAX]);

#endif
