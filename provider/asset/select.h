/* SPDX-License-Identifier: Apache-2.0 */
/* What of a model directory is part of the model. A pattern without '/' is compared with the name, one with
 * '/' with the path from the top; '*' and '?' do not match '/'; a '/' at its end makes it one of directories.
 * The last rule that matches decides: the built-in ones come first, then those of an ignore file, then
 * --exclude, then --include. What is left out of a directory includes everything below it. */
#ifndef TBPKG_ASSET_SELECT_H
#define TBPKG_ASSET_SELECT_H

#include <stdbool.h>
#include <stddef.h>

#include "common/option.h"

#define SELECT_FILE_MAX (256 * 1024)

struct select_rule {
    char *pattern;
    bool keep, dirs_only, from_top;
};
struct select {
    struct select_rule *rules;
    size_t n;
};

/* The built-in rules: version control, caches, lock files, secrets, litter of editors and systems. 0 or
 * -ENOMEM. */
int select_defaults(struct select *s);
/* One rule; keep: what matches is part of the model. -EINVAL: an empty pattern. */
int select_add(struct select *s, const char *pattern, bool keep);
/* The lines of an ignore file: patterns, '!' before one that keeps, '#' before a comment. 0 or -ENOMEM. */
int select_add_lines(struct select *s, const char *text);
bool select_leaves_out(const struct select *s, const char *path, bool is_dir);
void select_clear(struct select *s);
#define _cleanup_select_ _cleanup_(select_clear)

#endif
