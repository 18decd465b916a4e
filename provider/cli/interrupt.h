/* SPDX-License-Identifier: Apache-2.0 */
/* Ctrl-C: temporary files and directories are removed, then the process ends with 130. */
#ifndef TBPKG_CLI_INTERRUPT_H
#define TBPKG_CLI_INTERRUPT_H

#include <sys/types.h>

#include "common/io.h"

/* Installs the handler for SIGINT, SIGTERM and SIGHUP: remove what is registered below, exit 130. Ignores
 * SIGPIPE. */
void cli_signals_init(void);
/* Around "create it, register it", so that no interrupt falls between; nests. Also around the renames that
 * must happen together. Only while no worker threads run. */
void cli_signals_block(void);
void cli_signals_unblock(void);

/* Files or (empty by then) directories to remove on interrupt, last registered first. The string is copied. 0
 * or -ENOMEM. */
int cli_temp_add(const char *path);
void cli_temp_forget_all(void);
/* tb_newfile_open() whose temporary file an interrupt removes. mode is what open(2) would be given: the umask
 * applies. */
int cli_newfile_open(struct tb_newfile *f, const char *path, mode_t mode);

/* A static line the handler prints ("run the same command again to resume"), or NULL. */
void cli_interrupt_note(const char *line);

#endif
