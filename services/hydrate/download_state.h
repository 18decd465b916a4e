/* SPDX-License-Identifier: Apache-2.0 */
/* A download that runs, as its parts share it: download.c (the threads), slot.c (what a slot fetches, and
 * what comes of it); how it ends is here.
 *
 * Each thread has a multi handle of libcurl and some of the slots. It transfers without a lock: a transfer
 * that runs is its thread's alone, but for the count of its bytes. Whatever follows from a transfer is done
 * under the one lock: which range is next, what came, how the whole ends. */
#ifndef TB_HYDRATE_DOWNLOAD_STATE_H
#define TB_HYDRATE_DOWNLOAD_STATE_H

#include <pthread.h>

#include "common/backoff.h"
#include "hydrate/download.h"
#include "hydrate/threads.h"
#include "hydrate/transfer.h"
#include "hydrate/turns.h"
#include "hydrate/wishes.h"

enum slot_state { SLOT_IDLE, SLOT_RUNNING, SLOT_WAITING };

struct download_slot {
    CURLM *multi; /* of its thread */
    enum slot_state state;
    struct transfer t;
    uint64_t had; /* what was there of it before the transfer that runs ends here in the file */
    struct tb_backoff backoff;
    bool urgent; /* only for what somebody waits for, so that this never waits for ranges nobody does */
    bool mends;  /* of that only for records, which do not wait for ranges either */
    bool repair; /* a record once more, not ranges */
    const char *elsewhere; /* of that, in which other place; NULL: the download's own */
    bool no_mirror;        /* it did not give these */
    uint64_t record;       /* its number, */
    uint64_t wish;         /* its offset, and which try it is, as they were wished for */
    unsigned try;
    unsigned wrong_answers;
    uint64_t due_us; /* SLOT_WAITING: next attempt */
};

struct download_worker {
    struct download_state *x;
    CURLM *multi;
    struct download_slot *slots;
    unsigned n_slots;
    bool joinable;
    pthread_t thread;
};

struct download_state {
    const struct download *d;
    const struct partial_identity *id;
    char where[256]; /* URL without its query */
    struct download_slot *slots;
    unsigned n_slots;
    struct download_worker workers[DOWNLOAD_THREADS_MAX]; /* the first is the calling thread's */
    unsigned n_workers;
    pthread_mutex_t lock; /* guards what follows, the slots, and the set of the partial */
    struct tb_outcome outcome;
    uint64_t cursor; /* ranges below it are there or in a slot */
    bool identified; /* the blob's entity tag is known, or that it has none: others may start */
    struct turns turns;
    struct wishes wishes;
    uint64_t idle_us;  /* since when there is nothing to do; 0: there is */
    uint64_t drain_us; /* nonzero: start nothing, and end then at the latest */
    bool over;
};

/* -- download_state.c, under the lock -------------------------------------------------------------------- */
/* Has the other threads look at what changed. */
void download_wake(struct download_state *x);
/* Ends the download. Of several reasons the first one counts. Ranges on their way may still finish, unless it
 * ends now. */
void download_give_up(struct download_state *x, bool now, int code, const char *fmt, ...) _printf_(4, 5);
/* The same for the file. */
void download_give_up_io(struct download_state *x, int r, const char *what);

/* -- slot.c, under the lock ------------------------------------------------------------------------------ */
/* Starts what the slot may start: a wish, its ranges once more, or the next ones that are missing. */
void slot_advance(struct download_state *x, struct download_slot *s, uint64_t now_us);
/* Those of a running slot's ranges that came whole, but for its last: who waits for them need not wait for
 * the others. */
void slot_mark(struct download_state *x, struct download_slot *s);
/* The transfer of a running slot ended. */
void slot_finish(struct download_state *x, struct download_slot *s, CURLcode code);
/* A response may be known good long before its range is there: others need not wait for its end. */
void slot_identify_early(struct download_state *x, const struct download_slot *s);

#endif
