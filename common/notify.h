/* SPDX-License-Identifier: Apache-2.0 */
/* Telling systemd and people how long work is going: READY=, STATUS=, EXTEND_TIMEOUT_USEC=, WATCHDOG=, a bar
 * on a terminal, plain lines in a log. Without $NOTIFY_SOCKET the sd_notify half does nothing. */
#ifndef TB_NOTIFY_H
#define TB_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "common/macros.h"
#include "common/rate.h"

void tb_notify_ready(const char *fmt, ...) _printf_(1, 2); /* READY=1 and STATUS= */
void tb_notify_status(const char *fmt, ...) _printf_(1, 2);
void tb_notify_stopping(void);
/* Has systemd keep a text under that name over restarts of this unit, in memory (FileDescriptorStoreMax=),
 * instead of what it kept so before; NULL: nothing. Best effort. */
void tb_notify_keep(const char *name, const char *text, size_t len);
/* What it kept; heap, NUL-terminated. -ENOENT when there is none; -EFBIG. */
int tb_notify_kept(const char *name, size_t max, char **ret, size_t *ret_len);
void tb_notify_watchdog(void);        /* WATCHDOG=1: only when the worker proved progress */
uint64_t tb_notify_watchdog_us(void); /* half of WatchdogSec=, 0 when off */
void tb_notify_extend(uint64_t usec); /* EXTEND_TIMEOUT_USEC= */

/* Progress of a counted piece of work. Zero-initialise, set verb and total, call update as often as you like:
 * it limits itself to 10 bar redraws a second, one STATUS= a second (with EXTEND_TIMEOUT_USEC=120 s and
 * WATCHDOG=1, only when done grew) and one plain line each 10 % (at most one a second, at least each 15 s)
 * where stderr is no terminal. Thread-compatible, not thread-safe. */
struct tb_progress {
    const char *verb; /* "Encrypting" */
    uint64_t total;   /* bytes; 0: unknown */
    bool quiet;       /* no bar and no lines (sd_notify still) */
    /* private */
    uint64_t start_us, last_bar_us, last_status_us, last_line_us, last_done, first_done;
    int last_percent, tty; /* tty: 0 unknown, 1 yes, 2 no */
    struct tb_rate rate;
};
void tb_progress_update(struct tb_progress *p, uint64_t done);
void tb_progress_finish(struct tb_progress *p, uint64_t done); /* last redraw and newline; logs the rate */
/* Bytes per second over the last seconds, as bar and STATUS= say it. */
uint64_t tb_progress_rate(const struct tb_progress *p);

#endif
