/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records from files. */
#ifndef TB_AUDIT_FILES_H
#define TB_AUDIT_FILES_H

#include "audit/verify.h"

/* File names; owned. */
struct tb_files {
    char **v;
    size_t n;
};
void tb_files_clear(struct tb_files *f);
/* The names, with those that no file has and that are patterns (the shell leaves one as it is when nothing
 * matches, or when its user may not read the directory) replaced by what they match. -ENOENT: a pattern
 * matches nothing; or another -errno. *ret_bad: that name. */
int tb_files_expand(char **names, size_t n, struct tb_files *ret, const char **ret_bad);

/* Reads the files ("-": standard input), in the order of their first records: rotation's names do not matter.
 * *ret_bad: which file an error is about. 0 or -errno. */
int tb_files_verify(struct tb_verify *v, char **paths, size_t n, const char **ret_bad);

#endif
