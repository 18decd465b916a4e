/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-load may do and the runtime may not. The unit has to allow tb-load a user and a mount namespace and
 * mount(2); tb-load takes both back before it becomes the runtime. */
#ifndef TB_LOAD_RESTRICT_H
#define TB_LOAD_RESTRICT_H

#include <stdbool.h>

/* Gives up CAP_SYS_ADMIN for good, or all capabilities, which is for those in a user namespace of our own: a
 * mount that is read-only must not be remounted from inside. 0 or -errno. */
int tb_restrict_privileges(bool all);
/* A system call filter for this process and all that come of it: no namespaces, no mounts, no setns(). It
 * needs no_new_privs. clone3(2), whose flags no filter can see, looks as if the kernel had none. 0 or
 * -errno. */
int tb_restrict_calls(void);

#endif
