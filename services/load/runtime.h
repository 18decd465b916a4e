/* SPDX-License-Identifier: Apache-2.0 */
/* Becoming the inference server: what it may inherit, and what not. */
#ifndef TB_LOAD_RUNTIME_H
#define TB_LOAD_RUNTIME_H

#include <stdbool.h>

#include "load/load.h"

/* true when the program can be executed, by path or through PATH. */
bool tb_runtime_found(const char *program);

/* Replaces this process by the command, {model} and {s3} replaced. The runtime gets stdin, stdout and stderr,
 * the environment without what was meant for us (credentials, listeners, notification), no capability to undo
 * a mount, no new privileges, and no core dumps: its memory holds plaintext. Returns only on failure: 74 or
 * 78. */
int tb_runtime_exec(struct tb_load *l, const char *model);

#endif
