/* SPDX-License-Identifier: Apache-2.0 */
/* The inference server as a child, in modes fifo and s3, where this process stays. */
#ifndef TB_LOAD_CHILD_H
#define TB_LOAD_CHILD_H

#include <stdbool.h>

#include "load/load.h"

/* Runs the command, in a process group of its own and killed when this process dies. 0 or 74. */
int tb_child_start(struct tb_load *l, const char *model, pid_t *ret);
/* Kills it and what it forked. *pid is 0 afterwards; 0 is fine. */
void tb_child_kill(pid_t *pid);
/* After SIGCHLD: true when it has ended, with the exit code that this leads to: its own, if it had the whole
 * model. *pid is 0 then. */
bool tb_child_ended(struct tb_load *l, pid_t *pid, bool had_model, int *ret);

#endif
