/* SPDX-License-Identifier: Apache-2.0 */
/* What all subcommands of tbpkg share: options, error lines, JSON on stdout, keys, temporary files and Ctrl-C. */
#ifndef TBPKG_CLI_CLI_H
#define TBPKG_CLI_CLI_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/io.h"
#include "common/macros.h"
#include "common/notify.h"
#include "common/secret.h"
#include "provider/tbpkg.h"

/* Exit codes of tbpkg, design section 4. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 };

/* -- options ------------------------------------------------------------------------------------------------------- */

struct cli {
    const struct tbpkg_command *command;
    const char *config; /* --config */
    bool json, quiet, want_help, want_version;
    uint64_t given; /* bit i: row i of the table was on the command line */
    int rc;         /* what to return after CLI_STOP */
};

#define CLI_STOP (-2) /* of cli_parse(), option.h: return c->rc */

/* Reports a usage error with a pointer to --help. Returns CLI_USAGE. */
int cli_usage(const struct cli *c, const char *fmt, ...) _printf_(2, 3);

/* Takes the one positional argument that may stand instead of --in. CLI_OK, or CLI_USAGE when reported. */
int cli_positional(const struct cli *c, int argc, char **argv, const char **in);

/* Size with an optional suffix: 4194304, 4096K, 4M, 4MiB, 1G (powers of 1024). -EINVAL, -ERANGE. */
int cli_parse_size(const char *s, uint64_t *ret);

/* -- messages on stderr -------------------------------------------------------------------------------------------- */

/* One line "tbpkg: OBJECT: REASON; REMEDY" (remedy may be NULL). Control characters are shown as '?'. Returns CLI_FAILED.
 * Never pass a secret or an unredacted URL. */
int tbpkg_fail(const char *object, const char *reason, const char *remedy);
/* The same with reason strerror(-r) or a better known text for the errno, and a remedy where one is obvious. */
int tbpkg_fail_errno(const char *object, int r);
/* Formatted reason. */
int tbpkg_failf(const char *object, const char *fmt, ...) _printf_(2, 3);
void tbpkg_warn(const char *fmt, ...) _printf_(1, 2);
/* Information for people; silent with --quiet. */
void tbpkg_note(const struct cli *c, const char *fmt, ...) _printf_(2, 3);

/* -- stdout -------------------------------------------------------------------------------------------------------- */

/* From now on cli_print_json() hands a copy to *to instead of printing: for the
 * command that runs others. NULL ends that. */
void cli_capture_json(cJSON **to);
/* Prints the document and a newline. CLI_OK, or CLI_FAILED when stdout cannot take it. The document is not freed. */
int cli_print_json(const cJSON *doc);
/* Flushes stdout and says so when that fails. CLI_OK or CLI_FAILED. */
int cli_flush_stdout(void);

/* -- keys ---------------------------------------------------------------------------------------------------------- */

/* Where the key comes from: --key-file PATH|-, --key-hex HEX, or $TBPKG_KEY_FILE. Zero-initialise. */
struct cli_key_arg {
    const char *file;
    char *hex; /* tb_secret_alloc memory */
};
static inline void cli_key_arg_clear(struct cli_key_arg *k)
{
    tb_secret_free(k->hex);
    k->hex = NULL;
}
#define _cleanup_key_arg_ _cleanup_(cli_key_arg_clear)

/* --key-hex: moves the digits into secret memory, overwrites argv (so that /proc/PID/cmdline loses them) and warns. */
int cli_key_arg_hex(struct cli_key_arg *k, char *argv_value);
/* true when any source was given, the environment included. */
bool cli_key_arg_given(const struct cli_key_arg *k);
/* Reads the key. CLI_OK; else the error is reported and CLI_FAILED or CLI_USAGE returned. */
int cli_key_arg_read(const struct cli *c, const struct cli_key_arg *k, struct tb_key *ret);

/* CLI_OK unless two of them want standard input, or a ciphertext from there comes without a manifest. NULLs are fine. */
int cli_check_inputs(const struct cli *c, const char *in, const char *manifest, const struct cli_key_arg *k);

/* -- progress, temporary files, interrupts ------------------------------------------------------------------------- */

/* A bar on a terminal; elsewhere, lines for work of more than two seconds. total 0: unknown. */
struct tb_progress cli_progress_start(const struct cli *c, const char *verb, uint64_t total);
/* A tbenc_progress_fn; ctx is a struct tb_progress. */
int cli_progress(void *ctx, uint64_t done, uint64_t total);
/* After success; an error line ends the bar itself. */
void cli_progress_finish(struct tb_progress *p, uint64_t done);

/* Installs the handler for SIGINT, SIGTERM and SIGHUP: remove what is registered below, exit 130. Ignores SIGPIPE. */
void cli_signals_init(void);
/* Around "create it, register it", so that no interrupt falls between; nests. Also around the renames that must happen
 * together. Only while no worker threads run. */
void cli_signals_block(void);
void cli_signals_unblock(void);
/* Files or (empty by then) directories to remove on interrupt, last registered first. The string is copied. 0 or -ENOMEM. */
int cli_temp_add(const char *path);
void cli_temp_forget_all(void);
/* tb_newfile_open() whose temporary file an interrupt removes. mode is what open(2) would be given: the umask applies. */
int cli_newfile_open(struct tb_newfile *f, const char *path, mode_t mode);
/* A static line the handler prints ("run the same command again to resume"), or NULL. */
void cli_interrupt_note(const char *line);

#endif
