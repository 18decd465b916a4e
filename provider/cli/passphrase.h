/* SPDX-License-Identifier: Apache-2.0 */
/* A passphrase: the first line of a file, or typed at the terminal, which does not show it. */
#ifndef TBPKG_CLI_PASSPHRASE_H
#define TBPKG_CLI_PASSPHRASE_H

#include <stdbool.h>

#define CLI_PASSPHRASE_MAX 1023

/* file: NULL asks the terminal, with the words of prompt, and once more when it is a new one (twice). what:
 * for whom it is, and option: what names the file, both for messages. *ret: secret memory. CLI_OK, or
 * reported and CLI_FAILED, or CLI_INTERRUPTED for Ctrl-C. */
int cli_passphrase_read(const char *file, const char *what, const char *option, const char *prompt,
                        bool twice, char **ret);

#endif
