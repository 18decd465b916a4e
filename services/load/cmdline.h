/* SPDX-License-Identifier: Apache-2.0 */
/* TB_RUNTIME_EXEC as an argument vector, without a shell. Words are separated by blanks; '...' is literal;
 * "..." knows \" and \\; outside quotes a backslash takes the next character literally. Nothing else is
 * special. No I/O. */
#ifndef TB_LOAD_CMDLINE_H
#define TB_LOAD_CMDLINE_H

#include <stddef.h>

#define TB_CMDLINE_MAX (64 * 1024)
#define TB_CMDLINE_ARGS_MAX 1024
#define TB_CMDLINE_ERR_MAX 160
#define TB_CMDLINE_MODEL "{model}"

/* *ret is a NULL-terminated vector to be freed with tb_argv_free(); it has at least one word.
 * 0; -EINVAL with a reason in err; -ENOMEM. */
int tb_cmdline_split(const char *buf, size_t len, char ***ret, char err[static TB_CMDLINE_ERR_MAX]);

/* Replaces each {model} in each word. 0 or -ENOMEM. */
int tb_cmdline_substitute(char **argv, const char *model);

char **tb_argv_free(char **argv); /* accepts NULL; returns NULL */

#endif
