/* SPDX-License-Identifier: Apache-2.0 */
/* Which file it is, by what survives a rename and changes with a new copy: size, mtime, inode, as members
 * of a JSON object. Bytes that rot below the file system change none of them. */
#ifndef TB_FILE_MARK_H
#define TB_FILE_MARK_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <sys/stat.h>

/* Adds the members bytes, mtime, inode. 0 or -ENOMEM. */
int tb_file_mark_add(cJSON *o, const struct stat *st);
/* The object has them, and they are those of st. */
bool tb_file_mark_matches(const cJSON *o, const struct stat *st);
/* The same, whenever it was written to: the same file, of the same length. */
bool tb_file_mark_is_of(const cJSON *o, const struct stat *st);

#endif
