/* SPDX-License-Identifier: Apache-2.0 */
/* Files of a fixed size that are mapped shared, so that what is in them survives SIGKILL without a system
 * call. */
#ifndef TB_MAPFILE_H
#define TB_MAPFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TB_MAPFILE_MAGIC 8

/* Opens path, made if need be (0640), as a file of at least `bytes` that begins with magic, and maps as many
 * of it for writing. reserve: its blocks are there too, since writing to a hole of a mapped file kills the
 * process when the disk is full. A new file is on the disk before this returns; one that a power cut left
 * without content counts as new. The descriptor, -EBADMSG when it is another kind of file, or -errno. */
int tb_mapfile_open(const char *path, const char magic[static TB_MAPFILE_MAGIC], size_t bytes, bool reserve,
                    void **ret_map);

/* Writes a new file of these bytes (0640), which appears under its name only when it is whole: a crash leaves
 * either none or all of it. 0 also when there is one already. */
int tb_mapfile_create(const char *path, const void *bytes, size_t n);
/* Maps an open file that begins with magic and has exactly n bytes. -EBADMSG when it is another kind of
 * file. */
int tb_mapfile_map(int fd, const char magic[static TB_MAPFILE_MAGIC], size_t n, bool write, void **ret);
/* path names the file that is open at fd. */
bool tb_mapfile_has_its_name(const char *path, int fd);
/* For a file that is mapped whole, at map, and open at *fd: sees that it still has its name. When it was
 * removed or something else put in its place, it is written again as it is in memory, with a lock as of
 * flock() if the old one may have had one, and mapped at the same address; what was in its place is set
 * aside. Nobody may write to the map meanwhile. 0: all in order; 1: it was written again, *fd is another
 * descriptor; or -errno, and try again. */
int tb_mapfile_keep(const char *path, int *fd, void *map, size_t n, bool reserve, bool lock);
/* Renames what is not what it should be to PATH.corrupt-<time>, for somebody to look at. */
int tb_mapfile_set_aside(const char *path);

#endif
