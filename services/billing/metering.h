/* SPDX-License-Identifier: Apache-2.0 */
/* The life of metering events in the ledger (states: metering/event.h). Each function is one durable
 * transaction; time is an argument. */
#ifndef TB_BILLING_METERING_H
#define TB_BILLING_METERING_H

#include "billing/ledger.h"
#include "metering/schedule.h"

/* Lets time pass: freezes hours that are over; brings into the open hour what became too old to be sent, and
 * what a clock that was ahead had labelled with an hour that is yet to come. Only events that the marketplace
 * cannot have are moved. *ret_moved counts those that had grown too old. */
int tb_metering_advance(struct tb_ledger *l, uint64_t realtime_us, unsigned *ret_moved,
                        char err[static TB_LEDGER_ERR_MAX]);

/* The next events to send after (hour, dimension), oldest hour first, at most `most`: FROZEN and SENT ones,
 * with `parked` also those PARKED that can still be accepted. They are SENT and in doubt from here on. ret->n
 * is 0 when there are none. */
int tb_metering_take(struct tb_ledger *l, uint64_t realtime_us, bool parked, int64_t after_hour,
                     const char *after_dimension, unsigned most, struct tb_metering_batch *ret,
                     char err[static TB_LEDGER_ERR_MAX]);
/* Whether take would find something. */
int tb_metering_due(struct tb_ledger *l, uint64_t realtime_us, bool parked, bool *ret);

/* Enters the verdicts, one for each event of the batch. What the marketplace accepted less of goes into the
 * open hour. */
int tb_metering_settle(struct tb_ledger *l, const struct tb_metering_batch *b,
                       const struct tb_metering_verdict *v, uint64_t realtime_us,
                       char err[static TB_LEDGER_ERR_MAX]);

/* PARKED, in doubt and past sending: a person has found out what the marketplace has. accepted: that it has
 * all of it; else it goes into the open hour. -ENOENT when there is no such event. */
int tb_metering_resolve(struct tb_ledger *l, int64_t hour, const char *dimension, bool accepted,
                        char err[static TB_LEDGER_ERR_MAX]);

/* Why the subscription counts as ended: the first refusal for that; "" when there was none, or a newer event
 * was accepted. */
int tb_metering_ended(struct tb_ledger *l, char ret[static TB_METERING_REASON_MAX]);

/* The ledger as metering/schedule.h wants it. resource may be found later than this is made, and is not NULL
 * when something is taken. */
struct billing_sender {
    struct tb_ledger *l;
    const char *resource, *plan;
};
struct tb_metering_ledger billing_sender_ledger(struct billing_sender *s);

struct tb_metering_summary {
    unsigned open, frozen, sent, accepted, parked; /* events */
    unsigned doubt;                                /* of the parked ones */
    int64_t oldest;        /* hour of the oldest usage that is not accepted; -1: none */
    int64_t last_accepted; /* latest hour accepted; -1: none */
};
int tb_metering_summarise(struct tb_ledger *l, struct tb_metering_summary *ret);
/* Age of the oldest usage that is not accepted, from the end of its hour. */
uint64_t tb_metering_late_us(const struct tb_metering_summary *s, uint64_t realtime_us);

/* Prints what was used and every event, oldest first: two tables, or one JSON object. */
int tb_metering_print(struct tb_ledger *l, FILE *out, bool json, uint64_t realtime_us,
                      char err[static TB_LEDGER_ERR_MAX]);
/* Prints what the marketplace has not accepted, what of the counters u (NULL: there are none) is not booked,
 * and, of a ledger without events, what was booked; or that there is nothing. */
int tb_metering_print_unreported(struct tb_ledger *l, FILE *out, const struct tb_usage_snapshot *u,
                                 uint64_t realtime_us, char err[static TB_LEDGER_ERR_MAX]);

#endif
