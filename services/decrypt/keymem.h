/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for key schedules, which a view needs for as long as its reader lives: pages that only this process
 * can look at (memfd_secret(2)), or, where the kernel has none, locked pages that no core dump gets. OpenSSL
 * takes the memory of a cipher's context from its allocator; this is that allocator. */
#ifndef TB_DECRYPT_KEYMEM_H
#define TB_DECRYPT_KEYMEM_H

/* Becomes OpenSSL's allocator, which can be done only before its first allocation. 0 or -EBUSY. */
int tb_keymem_install(void);
/* Makes the place. How it is kept, for people; NULL with errno when there is no memory. */
const char *tb_keymem_open(void);
/* What OpenSSL allocates on this thread between the two is in that place; nothing but contexts with keys
 * should be. */
void tb_keymem_enter(void);
void tb_keymem_leave(void);

#endif
