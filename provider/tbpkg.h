/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of tbpkg: one file each, one table in main.c.
 *
 * A subcommand is called with argv[0] its own name, parses its options with cli_parse(), and returns the exit code of the
 * process: CLI_OK, CLI_FAILED, CLI_USAGE (cli.h). Data goes to stdout and nothing else does; progress, summaries, warnings
 * and errors go to stderr. */
#ifndef TBPKG_TBPKG_H
#define TBPKG_TBPKG_H

struct cli_option;

struct tbpkg_command {
    const char *name;
    const char *summary;              /* one line of `tbpkg --help` */
    const char *synopsis;             /* what follows "Usage: tbpkg NAME " */
    const char *about;                /* lines of --help before the options */
    const char *tail;                 /* and after them; or NULL */
    const struct cli_option *options; /* option.h */
    int (*run)(int argc, char **argv);
};

extern const struct tbpkg_command tbpkg_encrypt, tbpkg_decrypt, tbpkg_verify, tbpkg_inspect, tbpkg_upload,
    tbpkg_register, tbpkg_build, tbpkg_package, tbpkg_publish, tbpkg_config;

#endif
