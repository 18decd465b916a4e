/* SPDX-License-Identifier: Apache-2.0 */
/* What a command says: messages and progress on standard error, JSON on standard output. Control characters
 * of whatever origin reach neither. */
#ifndef TBPKG_CLI_OUTPUT_H
#define TBPKG_CLI_OUTPUT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/io.h"
#include "common/macros.h"
#include "provider/cli/progress.h"

/* Exit codes of tbpkg, tbpkg(1). 3 to 6: of the commands that ask a control plane for something. */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,   /* there is no such contract, machine, asset or token */
    CLI_DENIED = 4,      /* no token, one that is not valid, or one that may not do this */
    CLI_REFUSED = 5,     /* it does not fit what is there: a name that is taken, an asset in use */
    CLI_UNAVAILABLE = 6, /* no answer, or none yet: the same command may work later */
    CLI_INTERRUPTED = 130,
};

/* -- messages ---------------------------------------------------------------------------------- */

/* One line "tbpkg: OBJECT: REASON; REMEDY" (remedy may be NULL). Returns CLI_FAILED. Never pass a secret or
 * an unredacted URL. */
int tbpkg_fail(const char *object, const char *reason, const char *remedy);
/* The same with strerror(-r) as the reason, and a remedy where one is obvious. */
int tbpkg_fail_errno(const char *object, int r);
/* Formatted reason. */
int tbpkg_failf(const char *object, const char *fmt, ...) _printf_(2, 3);
void tbpkg_warn(const char *fmt, ...) _printf_(1, 2);
/* Information for people; nothing when quiet. */
void tbpkg_note(bool quiet, const char *fmt, ...) _printf_(2, 3);
/* One line "PREFIXLINE". */
void cli_print_line(const char *prefix, char *line);

/* -- standard output --------------------------------------------------------------------------- */

/* From now on cli_print_json() hands a copy to *to instead of printing: for the command that runs others.
 * NULL ends that. */
void cli_capture_json(cJSON **to);
/* Prints the document and a newline. CLI_OK, or CLI_FAILED when stdout cannot take it. The document is not
 * freed. */
int cli_print_json(const cJSON *doc);
/* Another command runs this one. */
bool cli_json_is_captured(void);
/* Flushes stdout and says so when that fails. CLI_OK or CLI_FAILED. */
int cli_flush_stdout(void);

/* What somebody else wrote: to the byte, but for a terminal, which would do what it says. */
int cli_print_text(const char *text, size_t len);

#endif
