/* SPDX-License-Identifier: Apache-2.0 */
/* Other programs that a command drives: buildah, packer. Their output goes to our stderr, since stdout is for
 * our data. */
#ifndef TBPKG_CLI_TOOL_H
#define TBPKG_CLI_TOOL_H

#include <stdbool.h>
#include <stddef.h>

#include "common/macros.h"
#include "provider/cli/output.h"

#define TOOL_WORDS_MAX 128

/* A command line; the words are copied. Zero-initialise. */
struct tool {
    char *v[TOOL_WORDS_MAX];
    size_t n;
    int r;      /* -ENOMEM, -E2BIG: a word did not fit */
    bool quiet; /* what it says is shown only when it fails */
};
void tool_add(struct tool *t, const char *fmt, ...) _printf_(2, 3);
void tool_clear(struct tool *t);
#define _cleanup_tool_ _cleanup_(tool_clear)

/* The program is on the PATH; else reported, with the Debian package that has it. CLI_OK or CLI_FAILED. */
int tool_find(const char *program, const char *package);

/* Runs it to its end. ret_out, when not NULL, gets what it wrote to stdout, at most 4 MiB. package: the
 * Debian package that has the program. CLI_OK; or the error is reported and CLI_FAILED returned, or after an
 * interrupt, which it got too and was waited for, CLI_INTERRUPTED. */
int tool_run(const struct tool *t, const char *package, char **ret_out);

/* Runs it as a filter: in, which is wiped by the caller, is what it reads on its stdin (at most a pipe's
 * capacity), and what it writes goes to out_fd. As tool_run(). */
int tool_run_filter(const struct tool *t, const char *package, const void *in, size_t in_len, int out_fd);

/* A new directory below $TMPDIR; tool_rmdir() removes it with all that is in it. Heap, or NULL: reported. */
char *tool_mkdtemp(void);
void tool_rmdir(char **path);

#endif
