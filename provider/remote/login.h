/* SPDX-License-Identifier: Apache-2.0 */
/* What tbpkg login keeps: a bearer token for each control plane, in a file of its own below
 * $XDG_CONFIG_HOME/trustbridge/tokens (or ~/.config/...), 0600 in a directory that is 0700. The file holds
 * the token and nothing else, so --token-file takes it, too. */
#ifndef TBPKG_REMOTE_LOGIN_H
#define TBPKG_REMOTE_LOGIN_H

#include <stdbool.h>
#include <stddef.h>

#define REMOTE_TOKEN_MAX (16 * 1024)

/* The endpoint without what makes no difference: case of scheme and host, the default port, '/' at its end.
 * Heap, or NULL on ENOMEM. */
char *login_endpoint(const char *endpoint);
/* Where the token for that endpoint is. CLI_OK; CLI_FAILED when there is neither XDG_CONFIG_HOME nor HOME, or
 * no memory: reported. */
int login_path(const char *endpoint, char **ret);

/* The token in a file ("-" is standard input; on a terminal it is not echoed) into secret memory. private:
 * whoever else can read it is refused. -ENOENT when there is no such file; else CLI_OK, or CLI_FAILED or
 * CLI_INTERRUPTED when reported. */
int login_read(const char *path, bool private, char **ret);
/* Replaces the token for the endpoint. CLI_OK or CLI_FAILED. */
int login_write(const char *path, const char *token);

#endif
