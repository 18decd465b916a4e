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

/* Exit codes of tbpkg, tbpkg(1). */
enum {
    CLI_OK = 0,
    CLI_FAILED = 1, /* an error that none of the others fits */
    CLI_USAGE = 2,
    CLI_NOT_FOUND = 3,   /* a service has no such container, contract, machine, asset or token */
    CLI_DENIED = 4,      /* no credential, one that is not valid, or one that may not do this */
    CLI_REFUSED = 5,     /* it does not fit what is there: a name that is taken, an asset in use */
    CLI_UNAVAILABLE = 6, /* no answer, or none yet: the same command may work later */
    CLI_NO_ROOM = 7,     /* a disk of this machine is full, or would be */
    CLI_INTERRUPTED = 130,
};

/* -- messages ---------------------------------------------------------------------------------- */

/* One line "tbpkg: OBJECT: REASON; REMEDY" (remedy may be NULL). Returns CLI_FAILED. Never pass a secret or
 * an unredacted URL. */
int tbpkg_fail(const char *object, const char *reason, const char *remedy);
/* The same with another exit code, which it returns. */
int tbpkg_fail_as(int rc, const char *object, const char *reason, const char *remedy);
/* The same with strerror(-r) as the reason, and a remedy where one is obvious. */
int tbpkg_fail_errno(const char *object, int r);
/* Formatted reason. */
int tbpkg_failf(const char *object, const char *fmt, ...) _printf_(2, 3);
void tbpkg_warn(const char *fmt, ...) _printf_(1, 2);
/* Information for people; nothing when quiet. */
void tbpkg_note(bool quiet, const char *fmt, ...) _printf_(2, 3);
/* One line "PREFIXLINE", and the same in the log file. */
void cli_print_line(const char *prefix, char *line);
/* From now on lines are added to the file, too: 0600 when it is made. Of argv only the names are written, as
 * a value may be a secret. CLI_OK or CLI_FAILED. */
int cli_log_open(const char *path, int argc, char **argv);
/* The last line: with which exit code it ended. */
void cli_log_end(int rc);

/* Errors that were not printed yet. */
struct cli_fault {
    int rc;
    char *object, *reason, *remedy; /* the remedy may be NULL */
};
struct cli_faults {
    struct cli_fault *v;
    size_t n;
};
void cli_faults_clear(struct cli_faults *f);
#define _cleanup_faults_ _cleanup_(cli_faults_clear)
/* From now on tbpkg_fail() and its kin add to *to instead of printing, and so does cli_usage(), with no
 * object: for the command that looks at several things before it says what is wrong with all of them. NULL
 * ends that. */
void cli_capture_faults(struct cli_faults *to);
bool cli_faults_are_captured(void);
/* Adds one, unless the same is there. */
void cli_faults_add(struct cli_faults *f, int rc, const char *object, const char *reason, const char *remedy);
/* The exit code of all of them: the one that they share, else CLI_FAILED; CLI_OK when there are none. */
int cli_faults_rc(const struct cli_faults *f);

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
