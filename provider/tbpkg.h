/* SPDX-License-Identifier: Apache-2.0 */
/* The subcommands of tbpkg: one file each, one table in main.c.
 *
 * A subcommand is called with argv[0] its own name, parses its options with cli_getopt(), and returns the exit code of the
 * process: CLI_OK, CLI_FAILED, CLI_USAGE (cli.h). Data goes to stdout and nothing else does; progress, summaries, warnings
 * and errors go to stderr. */
#ifndef TBPKG_H
#define TBPKG_H

struct tbpkg_command {
    const char *name;
    const char *summary; /* one line of `tbpkg --help` */
    int (*run)(int argc, char **argv);
};

int tbpkg_encrypt_main(int argc, char **argv);
int tbpkg_decrypt_main(int argc, char **argv);
int tbpkg_verify_main(int argc, char **argv);
int tbpkg_inspect_main(int argc, char **argv);
int tbpkg_upload_main(int argc, char **argv);
int tbpkg_register_main(int argc, char **argv);

#endif
