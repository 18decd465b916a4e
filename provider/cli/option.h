/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a subcommand as one table: it is what the command line is parsed by, what --help prints, and where a value
 * comes from that is not on the command line (settings.h). Needs no code in the subcommand but the rules that join several
 * options. */
#ifndef TBPKG_CLI_OPTION_H
#define TBPKG_CLI_OPTION_H

#include <stddef.h>
#include <stdint.h>

#include "provider/cli/cli.h"
#include "provider/tbpkg.h"

enum cli_kind {
    CLI_STRING,   /* const char * */
    CLI_DIR_NAME, /* const char *, without the '/' at its end */
    CLI_LIST,     /* struct cli_list, as often as it is given */
    CLI_FLAG,     /* bool */
    CLI_BITS,     /* unsigned: max is or-ed into it */
    CLI_UINT,     /* uint64_t, min to max */
    CLI_SIZE,     /* uint64_t, as cli_parse_size() has it, min to max bytes */
    CLI_KEY_HEX,  /* struct cli_key_arg */
    CLI_GONE, /* accepted from old command lines, without meaning; help says what took its place; not shown */
    CLI_HEADING, /* no option: a line of the help, after an empty one */
};

struct cli_list {
    const char **v;
    size_t n;
};
static inline void cli_list_clear(struct cli_list *l)
{
    tb_freep(&l->v);
    l->n = 0;
}

struct cli_option {
    char letter;      /* 0: none */
    const char *name; /* long name; NULL: a heading, or the end of the table */
    const char *arg;  /* what the help calls its value; NULL: it has none */
    enum cli_kind kind;
    size_t at; /* offsetof() of its variable in the job */
    const char *help;
    const char *setting; /* where its value comes from when it is not given; NULL: nowhere */
    uint64_t min, max;
};
#define CLI_OPTIONS_MAX 64 /* rows, the common ones included */

/* A row for `struct job`; what follows the help: .setting, .min, .max. */
#define CLI_OPTION(l, n, a, k, member, h, ...)                                                               \
    {                                                                                                        \
        .letter = l, .name = n, .arg = a, .kind = k, .at = offsetof(struct job, member), .help = h,          \
        __VA_ARGS__                                                                                          \
    }
#define CLI_HEADING_ROW(h)                                                                                   \
    {                                                                                                        \
        .kind = CLI_HEADING, .help = h                                                                       \
    }
/* An old one: h names what took its place. a as in struct cli_option. */
#define CLI_GONE_ROW(n, a, h)                                                                                \
    {                                                                                                        \
        .name = n, .arg = a, .kind = CLI_GONE, .help = h                                                     \
    }

/* Every subcommand has these: the last rows of its table. They need its job's struct cli to be called cli. */
#define CLI_COMMON                                                                                           \
    CLI_OPTION(0, "config", "FILE", CLI_STRING, cli.config, "settings [~/.config/trustbridge/tbpkg.ini]"),   \
        CLI_OPTION(0, "json", NULL, CLI_FLAG, cli.json, "print the result as JSON"),                         \
        CLI_OPTION('q', "quiet", NULL, CLI_FLAG, cli.quiet, "no progress, no summary"),                      \
        CLI_OPTION('h', "help", NULL, CLI_FLAG, cli.want_help, "show this help"),                            \
        CLI_OPTION(0, "version", NULL, CLI_FLAG, cli.want_version, "show the version"),                      \
    {                                                                                                        \
        .name = NULL                                                                                         \
    }

/* Parses argv by the table of c->command into *job, then takes what was not given from environment and settings file. CLI_OK,
 * and the rest of the words starts at optind; or CLI_STOP: help or version was printed, or an error reported: return
 * c->rc. Values point into argv, or live as long as the process. */
int cli_parse(struct cli *c, void *job, int argc, char **argv);

/* The option of that long name was on the command line. */
bool cli_given(const struct cli *c, const char *name);

/* What --help prints. */
void cli_help(const struct tbpkg_command *command, FILE *f);

/* The last thing of a command's own parsing: CLI_OK to go on; CLI_STOP when c->rc is an error, or while command lines are only
 * checked (cli_check_only). */
int cli_ready(const struct cli *c);
/* From now on cli_ready() stops: a command's run() then says whether its command line is right and does nothing else. */
void cli_check_only(bool on);

/* For commands without arguments. CLI_OK, or CLI_USAGE when reported. */
int cli_no_positional(const struct cli *c, int argc, char **argv);

#endif
