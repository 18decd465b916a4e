/* SPDX-License-Identifier: Apache-2.0 */
/* A directory that becomes visible only when complete: built as ".NAME.XXXXXX" beside its final name. An
 * interrupt removes it (cli_temp_add). Functions that fail have said so on stderr and return CLI_FAILED;
 * CLI_OK otherwise. */
#ifndef TBPKG_ASSET_OUT_TREE_H
#define TBPKG_ASSET_OUT_TREE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/macros.h"
#include "tbenc/tbenc.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/output.h"

struct out_tree {
    char *path;     /* final name */
    char *tmp_path; /* NULL once committed */
    int *fds;       /* one writable file for each entry of the table, in its order */
    size_t n;
};

/* Checks that path may be created: it does not exist; or with replace it is a directory that holds nothing
 * but files of this table, so that nothing of value can be lost to a mistyped name. */
int out_tree_check(const char *path, const struct tbenc_manifest *m, bool replace);
/* Makes the directories and files of the table (0600 for now). */
int out_tree_create(const char *path, const struct tbenc_manifest *m, struct out_tree *ret);
/* Sets the modes, syncs everything, takes the final name; an old directory is swapped out and removed. */
int out_tree_commit(struct out_tree *t, const struct tbenc_manifest *m, bool replace);
void out_tree_abort(struct out_tree *t);
#define _cleanup_out_tree_ _cleanup_(out_tree_abort)

#endif
