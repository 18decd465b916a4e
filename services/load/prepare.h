/* SPDX-License-Identifier: Apache-2.0 */
/* What is looked at before anything is made, removed or started. */
#ifndef TB_LOAD_PREPARE_H
#define TB_LOAD_PREPARE_H

#include "load/load.h"

/* TB_RUNTIME_EXEC as an argument vector, to be freed with tb_argv_free() whatever is returned: 0, with
 * NULL where none is needed; 74; 78. */
int tb_load_command(const struct tb_config *c, char ***ret, struct tb_outcome *o);
/* Checks that nobody else can interfere where plaintext, FIFO and ready signal will be. 74, 78. */
int tb_load_check_paths(struct tb_load *l);
/* Reads TB_RUNTIME_EXEC, the manifest and the size of the ciphertext. 66, 74, 76, 78. */
int tb_load_prepare(struct tb_load *l);

#endif
