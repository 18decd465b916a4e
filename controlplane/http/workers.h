/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that answer: each has a connection to the database of its own, so that what waits for the
 * database, the key service or the storage holds up nobody who does not. The queue is bounded: better a
 * quick 503 than a client that gives up while it waits. */
#ifndef CP_WORKERS_H
#define CP_WORKERS_H

#include "controlplane/store/datadir.h"

#define CP_WORKERS_DEFAULT 8
#define CP_WORKERS_MAX 64
#define CP_JOBS_MAX 512

struct cp_job {
    /* s NULL: the database cannot be opened, why says what is wrong. Called once, by a worker. */
    void (*run)(struct cp_job *j, struct cp_store *s, const char *why);
    struct cp_job *next;
};

struct cp_workers;

/* place lives longer. 0 or -errno. */
int cp_workers_start(const struct cp_place *place, unsigned n, struct cp_workers **ret);
/* false: the queue is full, or they are being stopped; j is the caller's then. */
bool cp_workers_give(struct cp_workers *w, struct cp_job *j);
/* Takes no more, does what is queued, joins. NULL is fine. */
struct cp_workers *cp_workers_stop(struct cp_workers *w);

#endif
