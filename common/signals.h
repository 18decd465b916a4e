/* SPDX-License-Identifier: Apache-2.0 */
/* Signals as something to read: blocked for all threads that are started later, and taken from a
 * descriptor. */
#ifndef TB_SIGNALS_H
#define TB_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* Blocks SIGTERM, SIGINT and those of extra (a list that ends with 0, or NULL), ignores SIGPIPE, and returns
 * a non-blocking signalfd for what is blocked, or a negative errno. Call it before any thread is started. */
int tb_signals_open(const int *extra);
/* The next signal waiting in fd, 0 when there is none. */
int tb_signals_next(int fd);
/* false: the signals of tb_signals_open() have their default effect from now on, so that one ends a process
 * which has nothing to save. true: they wait in the descriptor again. */
void tb_signals_hold(bool hold);
/* Ends this process by signo as if it had never been blocked or handled, so that the parent sees a stop and
 * not a failure. */
void tb_signals_die(int signo);

#endif
