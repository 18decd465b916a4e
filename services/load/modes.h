/* SPDX-License-Identifier: Apache-2.0 */
/* The ways to give the runtime its model. Design section 6. */
#ifndef TB_LOAD_MODES_H
#define TB_LOAD_MODES_H

#include "load/load.h"

/* Mode dir (mode_dir.c): fills the directory and becomes the runtime; returns only when that failed. */
int tb_load_dir(struct tb_load *l);
/* Mode view (mode_view.c): mounts, has tb-decrypt serve it and becomes the runtime; returns only when that
 * failed. */
int tb_load_view(struct tb_load *l);
/* Mode s3 (mode_s3.c): listens, has tb-decrypt serve there, and stays until the runtime ends. Returns its
 * exit code or that of the failure. */
int tb_load_s3(struct tb_load *l);
/* Mode fifo (mode_fifo.c): feeds the runtime and stays until it ends. Returns its exit code or that of the
 * failure. */
int tb_load_fifo(struct tb_load *l);

#endif
