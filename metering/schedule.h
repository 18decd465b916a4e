/* SPDX-License-Identifier: Apache-2.0 */
/* When to send which events: a step function from (a ledger, the time, the last answer) to (the next
 * request). No network and no clock of its own; a caller that dies between any two of its steps is followed
 * by one that starts with an empty schedule.
 *
 *   tb_metering_schedule_due() -> have a token -> tb_metering_schedule_next() -> POST the body ->
 *   tb_metering_schedule_answer(), and again until next has nothing.
 */
#ifndef TB_METERING_SCHEDULE_H
#define TB_METERING_SCHEDULE_H

#include "common/backoff.h"
#include "metering/answer.h"

#define TB_METERING_RETRY_BASE_MS 5000
#define TB_METERING_RETRY_CAP_MS (10 * 60 * 1000)
#define TB_METERING_PARKED_US TB_USEC_PER_HOUR /* between tries of what is parked */
#define TB_METERING_ERR_MAX 256

/* Where the events are. Each call is one durable transaction; 0 or -errno, with words in err. */
struct tb_metering_ledger {
    /* Whether take would find something. */
    int (*due)(void *ctx, uint64_t realtime_us, bool parked, bool *ret, char err[static TB_METERING_ERR_MAX]);
    /* The next events to send behind `after` (NULL: from the beginning), oldest hour first, at most `most`:
     * FROZEN and SENT ones, with `parked` also those PARKED that can still be accepted. They are SENT and in
     * doubt from here on. ret->n is 0 when there are none. */
    int (*take)(void *ctx, uint64_t realtime_us, bool parked, const struct tb_metering_event *after,
                unsigned most, struct tb_metering_batch *ret, char err[static TB_METERING_ERR_MAX]);
    /* Enters the verdicts, one for each event of the batch (tb_metering_decide()). */
    int (*settle)(void *ctx, const struct tb_metering_batch *b, const struct tb_metering_verdict *v,
                  uint64_t realtime_us, char err[static TB_METERING_ERR_MAX]);
    void *ctx;
};

struct tb_metering_schedule {
    struct tb_metering_ledger ledger;
    struct tb_backoff backoff;
    uint64_t not_before_us;  /* after a transient error; CLOCK_BOOTTIME */
    uint64_t parked_next_us; /* when parked events are tried again */
    unsigned forbidden;      /* 403 answers in a row */
    /* of the pass under way */
    bool passing, parked, again;
    unsigned most;                  /* events in a request */
    bool begun;                     /* something of this pass is behind: */
    struct tb_metering_event after; /* the last of it */
    struct tb_metering_batch batch; /* sent, not answered */
};
void tb_metering_schedule_init(struct tb_metering_schedule *m, struct tb_metering_ledger ledger);

/* Whether there is something to send now. */
int tb_metering_schedule_due(struct tb_metering_schedule *m, uint64_t realtime_us, uint64_t boottime_us,
                             bool *ret, char err[static TB_METERING_ERR_MAX]);
/* Before a request could be made (no token, no resource id): wait as after a bad answer. */
void tb_metering_schedule_postpone(struct tb_metering_schedule *m, uint64_t boottime_us,
                                   int64_t retry_after_ms);

/* Takes the next events of this pass. *ret_body (heap) is the request, NULL when the pass is over; its id is
 * in m->batch. */
int tb_metering_schedule_next(struct tb_metering_schedule *m, uint64_t realtime_us, uint64_t boottime_us,
                              char **ret_body, char err[static TB_METERING_ERR_MAX]);

/* What came of that request. */
struct tb_metering_result {
    bool answered, reached; /* reached: some of the request may have arrived */
    long status;
    const char *body; /* answered */
    size_t len;
    int64_t retry_after_ms; /* -1: none */
    const char *reason;     /* not answered: why */
};
/* Enters it; what it meant is in *ret, for the log. */
int tb_metering_schedule_answer(struct tb_metering_schedule *m, const struct tb_metering_result *x,
                                uint64_t realtime_us, uint64_t boottime_us, struct tb_metering_answer *ret,
                                char err[static TB_METERING_ERR_MAX]);

#endif
