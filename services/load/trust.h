/* SPDX-License-Identifier: Apache-2.0 */
/* Places of ours in directories that others can write to, as /dev/shm is. */
#ifndef TB_LOAD_TRUST_H
#define TB_LOAD_TRUST_H

#include "load/load.h"

/* Checks each directory on the way to path, as far as they are there: only root and we may be able to move or
 * replace what is ours in it. So it belongs to one of the two, and if all the world may write to it, it is
 * sticky. The last component is looked at when path ends with a slash. 0, 74, or 78 with a reason that names
 * setting. */
int tb_trust_check(struct tb_load *l, const char *setting, const char *path);

#endif
