/* SPDX-License-Identifier: Apache-2.0 */
/* Audit records from files. */
#ifndef TB_AUDIT_FILES_H
#define TB_AUDIT_FILES_H

#include "audit/verify.h"

/* Reads the files ("-": standard input), in the order of their first records: rotation's names do not matter.
 * *ret_bad: which file an error is about. 0 or -errno. */
int tb_files_verify(struct tb_verify *v, char **paths, size_t n, const char **ret_bad);

#endif
