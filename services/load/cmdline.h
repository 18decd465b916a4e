/* SPDX-License-Identifier: Apache-2.0 */
/* TB_RUNTIME_EXEC as an argument vector, without a shell. Words are separated by blanks; '...' is literal;
 * "..." knows \" and \\; outside quotes a backslash takes the next character literally. Nothing else is
 * special. No I/O. */
#ifndef TB_LOAD_CMDLINE_H
#define TB_LOAD_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>

#define TB_CMDLINE_MAX (64 * 1024)
#define TB_CMDLINE_ARGS_MAX 1024
#define TB_CMDLINE_ERR_MAX 160
#define TB_CMDLINE_MODEL "{model}"
#define TB_CMDLINE_S3 "{s3}" /* the same, for a program that takes an address of S3 too */

/* *ret is a NULL-terminated vector to be freed with tb_argv_free(); it has at least one word.
 * 0; -EINVAL with a reason in err; -ENOMEM. */
int tb_cmdline_split(const char *buf, size_t len, char ***ret, char err[static TB_CMDLINE_ERR_MAX]);

/* Replaces each {model} and each {s3} in each word. 0 or -ENOMEM. */
int tb_cmdline_substitute(char **argv, const char *model);

/* Is {model}, or {s3}, in one of them? argv may be NULL. */
bool tb_cmdline_has(char *const *argv, const char *mark);

char **tb_argv_free(char **argv); /* accepts NULL; returns NULL */

#endif
