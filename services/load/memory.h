/* SPDX-License-Identifier: Apache-2.0 */
/* Is there memory for the weights, and can it be swapped out? Parsers of /proc/meminfo, /proc/swaps and
 * /proc/self/mountinfo take (buf, len) and do no I/O. Design section 6. */
#ifndef TB_LOAD_MEMORY_H
#define TB_LOAD_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tbenc/tbenc.h"

#define TB_SWAP_NAME_MAX 128

/* Bytes of a field such as "MemAvailable". -EBADMSG when it is not there. */
int tb_meminfo_parse(const char *buf, size_t len, const char *field, uint64_t *ret);
/* Number of active swap areas; the first one's name, cut to fit, in name. */
unsigned tb_swaps_parse(const char *buf, size_t len, char name[static TB_SWAP_NAME_MAX]);
/* true when some mount of that device carries the super block option. */
bool tb_mountinfo_option(const char *buf, size_t len, dev_t device, const char *option);

/* Memory that can be had now. 0 or -errno. */
int tb_memory_available(uint64_t *ret);
/* Active swap areas; where /proc/swaps cannot be read, sysinfo(2) is asked and the name is "swap". */
unsigned tb_memory_swaps(char name[static TB_SWAP_NAME_MAX]);
/* true when the file system of that device is a tmpfs mounted noswap. */
bool tb_memory_noswap(dev_t device);

/* What the plaintext of m takes in a tmpfs: whole pages, directories, and a margin. */
uint64_t tb_memory_need(const struct tbenc_manifest *m);
/* Inodes it takes there. */
uint64_t tb_memory_inodes(const struct tbenc_manifest *m);

#endif
