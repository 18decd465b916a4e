/* SPDX-License-Identifier: Apache-2.0 */
/* What is to be done about another version, as a function of what is there and of the time. No I/O.
 *
 *      none -> downloading -> ready -> draining -> switching -> none
 *                                |                     |
 *                                |  (policy restart: the choice alone, while the old one serves on)
 *                                +---------------------+-> failed: back to the version before
 */
#ifndef TB_UPDATE_DECIDE_H
#define TB_UPDATE_DECIDE_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "common/serving.h"
#include "common/update_policy.h"
#include "common/update_state.h"

#define UPDATE_RESTARTS_MAX 3 /* of the runtime, by which a version on trial has failed */

struct update_facts {
    struct tb_update_policy policy;
    uint64_t drain_us, timeout_us;
    time_t now;
    uint64_t now_boot_us;
    bool lease_serving;       /* the control plane lets it serve */
    uint64_t wanted;          /* the version that it wants served; 0: it names none */
    bool has_serving;         /* something was ever downloaded */
    struct tb_serving choice; /* what the runtime's next start takes */
    bool delivered;           /* a runtime has a model, of whatever version */
    uint64_t loaded;          /* what is in the runtime's memory; 0: nothing whole */
    uint64_t healthy;         /* whose runtime answers; 0: none does */
    bool drained;             /* nobody waits for an answer of the runtime */
    bool runtime_failed;      /* for good */
    bool runtime_stopped;     /* by hand: whoever did that starts it again */
    uint32_t restarts;        /* of the runtime by itself, */
    bool restarts_known;      /* when systemd was asked */
    uint64_t complete;        /* the version that is complete beside; 0: none */
    bool download_runs;
    uint64_t download_of; /* that the last one was begun for */
    bool asked;           /* an operator wants it now */
    uint64_t failed;      /* a version that did not serve, and is not tried again until told */
};

/* What outlives a step. */
struct update_memory {
    enum tb_update_phase phase;
    uint64_t drain_until_us;  /* of DRAINING */
    uint64_t trial_until_us;  /* 0: the trial has not begun */
    bool counting;            /* how often the runtime ended in this trial: */
    uint32_t restarts_before; /* it */
    uint64_t again_at_us;     /* what could not be written about the trial is not tried before */
    uint64_t download_at_us;  /* not before */
};

enum update_action {
    UPDATE_WAIT,
    UPDATE_ADOPT,    /* find out whether what serves is the wanted version, as nobody has noted what it is */
    UPDATE_DOWNLOAD, /* begin the download of the wanted version */
    UPDATE_ABANDON,  /* the one that runs is of a version that nobody wants */
    UPDATE_TAKE,     /* the runtime's next start is to take the wanted version */
    UPDATE_DRAIN,    /* nothing new goes to the runtime */
    UPDATE_SWITCH,   /* stop the runtime, take the wanted version, start it */
    UPDATE_KEEP,     /* the new one serves: the one before may go */
    UPDATE_BACK,     /* the new one does not serve: back to the one before */
};

/* Brings *m up to date and says what is to be done now; ret_why: a reason for people, for BACK. */
enum update_action update_decide(const struct update_facts *f, struct update_memory *m, const char **ret_why);

#endif
