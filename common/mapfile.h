/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a fixed size that are mapped shared, so that what is in them survives SIGKILL without a system
 * call. */
#ifndef TB_MAPFILE_H
#define TB_MAPFILE_H

#include <stdbool.h>
#include <stdint.h>

#define TB_MAPFILE_MAGIC 8

/* Opens path, made if need be (0640), as a file of at least `bytes` that begins with magic. reserve: its
 * blocks are there too, since writing to a hole of a mapped file kills the process when the disk is full. A
 * new file is on the disk before this returns; one that a power cut left without content counts as new. The
 * descriptor, -EBADMSG when it is another kind of file, or -errno. */
int tb_mapfile_open(const char *path, const char magic[static TB_MAPFILE_MAGIC], uint64_t bytes,
                    bool reserve);

#endif
