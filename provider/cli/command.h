/* SPDX-License-Identifier: Apache-2.0 */
/* A subcommand of tbpkg and its command line: a table of options (common/option.h), whose values come from
 * the command line, else from the environment, else from the settings file (settings.h). */
#ifndef TBPKG_CLI_COMMAND_H
#define TBPKG_CLI_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "common/option.h"
#include "provider/cli/output.h"

struct tbpkg_command {
    const char *name;
    const char *summary;             /* one line of `tbpkg --help` */
    const char *synopsis;            /* what follows "Usage: tbpkg NAME " */
    const char *about;               /* lines of --help before the options */
    const char *tail;                /* and after them; or NULL */
    const struct tb_option *options; /* the last rows are CLI_COMMON_ROWS */
    /* argv[0] is the command's name. Returns the exit code of the process. */
    int (*run)(int argc, char **argv);
};

/* The command line of a command; the first member of the struct that its options fill is called cli. */
struct cli {
    const struct tbpkg_command *command;
    const char *config; /* --config */
    const char *log;    /* --log-file */
    bool json, quiet, want_help, want_version;
    struct tb_options options;
    int rc; /* what to return after CLI_STOP */
};

#define CLI_STOP (-2) /* of cli_parse(): return c->rc */

/* An option of old command lines that is obsolete; h says what took its place. */
#define CLI_GONE_ROW(n, a, h)                                                                                \
    {                                                                                                        \
        .name = n, .arg = a, .kind = TB_OPTION_CALL, .set = cli_option_gone, .want = h                       \
    }
int cli_option_gone(const struct tb_option *o, void *var, char *value, char err[static TB_OPTION_ERR_MAX]);

/* Every subcommand has these: the last rows of its table. */
#define CLI_COMMON_ROWS                                                                                      \
    TB_OPTION(0, "config", "FILE", TB_OPTION_STRING, cli.config,                                             \
              "settings [~/.config/trustbridge/tbpkg.ini]"),                                                 \
        TB_OPTION(0, "log-file", "FILE", TB_OPTION_STRING, cli.log,                                          \
                  "add what is said on standard error to FILE, each line with the time"),                    \
        TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, cli.json, "print the result as JSON"),                    \
        TB_OPTION('q', "quiet", NULL, TB_OPTION_FLAG, cli.quiet, "no progress, no summary"),                 \
        TB_OPTION('h', "help", NULL, TB_OPTION_STOP, cli.want_help, "show this help"),                       \
        TB_OPTION(0, "version", NULL, TB_OPTION_STOP, cli.want_version, "show the version"), TB_OPTION_END

/* What a command takes beside its options. */
enum cli_words {
    CLI_NO_WORDS,
    CLI_ONE_INPUT, /* a file or directory, which --in may name instead */
    CLI_ANY_WORDS, /* the command looks at argv[optind] and on itself */
};

/* Parses argv by the table of c->command into *job, whose member cli is c; takes what was not given from
 * environment and settings file; puts the input word into *ret_in (CLI_ONE_INPUT); lets check(job), if not
 * NULL, judge the whole, which returns CLI_OK or reports. CLI_OK to go on; or CLI_STOP: return c->rc, because
 * help or version was printed, an error was reported, or command lines are only checked (cli_check_only).
 * Values point into argv or live as long as the process. */
int cli_parse(struct cli *c, void *job, int argc, char **argv, enum cli_words words, const char **ret_in,
              int (*check)(void *job));

/* The option of that long name was on the command line. */
bool cli_given(const struct cli *c, const char *name);

/* From now on cli_parse() stops after the checks: a command's run() then says whether its command line is
 * right and does nothing else. */
void cli_check_only(bool on);

/* Reports a usage error. Returns CLI_USAGE. A check goes on after it, rc = cli_worse(rc, ...), so that all
 * that is wrong or missing is said at once; main() points to --help in the end. */
int cli_usage(const struct cli *c, const char *fmt, ...) _printf_(2, 3);
static inline int cli_worse(int rc, int other)
{
    return MAX(rc, other);
}
/* Where usage errors were reported: which help tells more. NULL: there were none. */
const char *cli_usage_of(void);
/* "WHAT is missing", unless it is there. CLI_OK or CLI_USAGE. */
int cli_need(const struct cli *c, bool there, const char *what);
/* The same for an --asset-id that is missing or not valid. */
int cli_check_asset_id(const struct cli *c, const char *asset_id);

/* What --help prints. */
void cli_help(const struct tbpkg_command *command, FILE *f);

#endif
