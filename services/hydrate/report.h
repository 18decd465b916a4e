/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-hydrate reports while it works: progress.json for tb-proxy, STATUS= for systemd, lines for the
 * log. */
#ifndef TB_HYDRATE_REPORT_H
#define TB_HYDRATE_REPORT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/notify.h"

struct report {
    char *dir; /* of progress.json; NULL: it could not be made, and none is written */
    const char *state;
    uint64_t version;                     /* of the asset; 0: not known */
    const char *mirror;                   /* its state, of mirror_state(); NULL: TB_BLOB_MIRROR is not set */
    uint64_t mirror_bytes, storage_bytes; /* that came from each in this run */
    uint64_t there;                       /* when it began */
    uint64_t done, total, written_us, started_boottime_us;
    bool moving; /* bytes are counted, at the rate of the bar */
    struct tb_progress bar;
};

/* Begins a phase: "manifest", "downloading", "verifying", "mending". verb is what people read; done: what is
 * there already. */
void report_phase(struct report *r, const char *state, const char *verb, uint64_t done, uint64_t total);
/* Bytes done in this phase. Call as often as you like: the file is written at most twice a second. */
void report_progress(struct report *r, uint64_t done);
/* Where the bytes of this run came from, of those that are there now. */
void report_source(struct report *r, const char *mirror, uint64_t mirror_bytes, uint64_t bytes);
/* Into the log: fetched bytes came between the two times, and were hashed, or went to the disk, since.
 * CLOCK_MONOTONIC. */
void report_rates(const char *path, uint64_t fetched, uint64_t begin_us, uint64_t fetched_us, bool hashed);
/* The end, written at once. */
void report_complete(struct report *r, uint64_t total);
void report_failed(struct report *r, const char *reason);
/* Before READY=1: tb-runtime.service is not started while the file "readable" is not there. */
void report_readable(const struct report *r);

#endif
