/* SPDX-License-Identifier: Apache-2.0 */
/* The mount of mode view: a file system of which tb-decrypt answers every request, on TB_MODEL_DIR. With
 * CAP_SYS_ADMIN it is in a mount namespace of our own, without in a user namespace of our own as well, which
 * needs no privilege. It is gone with the last process of the runtime. */
#ifndef TB_LOAD_VIEW_MOUNT_H
#define TB_LOAD_VIEW_MOUNT_H

#include "load/load.h"

/* Tries it in a process of its own; why not, when it cannot be done here. */
bool tb_view_possible(const struct tb_load *l, char why[static TB_VIEW_WHY_MAX]);
/* Mounts over the directory, which exists. The descriptor to serve it by, which is to be closed as soon as
 * tb-decrypt has it: the end of tb-decrypt must be the end of the mount. Or -errno. */
int tb_view_mount(struct tb_load *l);
/* Waits, not for long, until udev's rule has had the kernel read the mount ahead by more than the 128 KiB
 * that it does by itself. What is opened before keeps to those. A signal ends it (stopped_by), as does
 * the end of the mount. */
void tb_view_await_readahead(struct tb_load *l);

#endif
