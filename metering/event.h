/* SPDX-License-Identifier: Apache-2.0 */
/* Metering events on their way to the marketplace, and what its verdicts do to them: the state machine that
 * every ledger of ours has, whatever database it is in. Pure functions; hours count from the epoch, UTC.
 *
 *   OPEN      grows with each booking
 *   FROZEN    the hour is over: the quantity is fixed, nothing has been sent
 *   SENT      sent, and whether it arrived is not known. It is sent again, the same, until that is known
 *   ACCEPTED  the marketplace has it
 *   PARKED    the marketplace refuses it, for a reason that somebody must look at. Tried again each hour
 *
 * The marketplace takes one event for each resource, dimension and hour, in the first 24 h after the hour
 * began. The sum of a dimension's rows is what was booked for it, whatever happens to them: rows are split,
 * merged and moved to another hour in one transaction each, and only when it is certain that the marketplace
 * has none of it (doubt = 0). An hour of which the marketplace may have something takes no more usage. */
#ifndef TB_METERING_EVENT_H
#define TB_METERING_EVENT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/units.h"

#define TB_METERING_BATCH_MAX 25 /* of the marketplace's API */
#define TB_METERING_REASON_MAX 320
#define TB_METERING_REQUEST_ID_MAX 37
#define TB_METERING_RESOURCE_MAX 1001
#define TB_METERING_NAME_MAX 101 /* of a dimension, of a plan */

#define TB_USEC_PER_HOUR (3600 * TB_USEC_PER_SEC)
/* The marketplace takes an hour for 24 h after its beginning; what was not sent by then goes into the open
 * hour. */
#define TB_METERING_LATEST_US (24 * TB_USEC_PER_HOUR - 600 * TB_USEC_PER_SEC)
#define TB_METERING_ALARM_US (20 * TB_USEC_PER_HOUR)

/* An event that was taken to be sent. */
struct tb_metering_event {
    char resource[TB_METERING_RESOURCE_MAX]; /* an ARM id ("/...", resourceUri) or a GUID (resourceId) */
    char plan[TB_METERING_NAME_MAX], dimension[TB_METERING_NAME_MAX];
    int64_t hour;
    int64_t quantity; /* in what the counters count */
    uint64_t unit;    /* of them in a quantity of 1 */
    int64_t since;    /* the oldest hour that some of it is from */
    bool parked;      /* before it was taken */
    bool doubt;       /* an earlier request with it may have arrived */
};
struct tb_metering_batch {
    char request_id[TB_METERING_REQUEST_ID_MAX];
    unsigned n;
    struct tb_metering_event event[TB_METERING_BATCH_MAX];
};

/* What became of one of them. */
enum tb_metering_outcome {
    TB_METERING_UNKNOWN,  /* it may have arrived or not */
    TB_METERING_UNSENT,   /* it did not arrive, or was not looked at: a transient error */
    TB_METERING_ACCEPTED, /* the marketplace has `accepted` for this hour */
    TB_METERING_EXPIRED,  /* too old, refused for that */
    TB_METERING_REFUSED,  /* refused for a reason that will not pass by itself */
    TB_METERING_ENDED,    /* refused because the subscription has ended */
};
struct tb_metering_verdict {
    enum tb_metering_outcome outcome;
    int64_t accepted;
    bool duplicate;                      /* ACCEPTED, but of an earlier request */
    char reason[TB_METERING_REASON_MAX]; /* printable, "" for none */
};

/* What a verdict does to the row of an event that is SENT. */
struct tb_metering_change {
    const char *state; /* NULL: the row stays as it is; "": the row goes */
    bool doubt;
    int64_t quantity;      /* of the row */
    int64_t accepted;      /* -1: not said */
    const char *reason;    /* NULL: as it was */
    int64_t rest;          /* goes into the open hour */
    bool ended, not_ended; /* the subscription */
};
void tb_metering_decide(const struct tb_metering_event *e, const struct tb_metering_verdict *v,
                        struct tb_metering_change *ret);

/* The hour of a time; the last hour that is too old to be sent, -1: none; and the first that is not over,
 * which takes until grace_us after its end. */
int64_t tb_metering_hour(uint64_t realtime_us);
int64_t tb_metering_stale_hour(uint64_t realtime_us);
int64_t tb_metering_current_hour(uint64_t realtime_us, uint64_t grace_us);
/* Age of usage of an hour, from its end. since -1: 0. */
uint64_t tb_metering_age_us(int64_t since, uint64_t realtime_us);
/* The beginning of an hour, RFC 3339. Returns out. */
const char *tb_metering_hour_text(int64_t hour, char out[static TB_RFC3339_MAX]);

/* A random (version 4) GUID. */
void tb_metering_request_id(char out[static TB_METERING_REQUEST_ID_MAX]);

#endif
