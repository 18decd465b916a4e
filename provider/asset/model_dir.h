/* SPDX-License-Identifier: Apache-2.0 */
/* A model directory as the inputs of tbenc_seal(): the regular files below it that are part of the model
 * (select.h), sorted bytewise by relative path. What an asset cannot carry faithfully (sockets, devices,
 * names that are not UTF-8) is refused by name instead of being left out. A symbolic link is taken for what
 * it points to when that is a file in the directory, or in the blobs of the Hugging Face cache that the
 * directory is a snapshot of. */
#ifndef TBPKG_ASSET_MODEL_DIR_H
#define TBPKG_ASSET_MODEL_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/macros.h"
#include "provider/asset/select.h"
#include "tbenc/tbenc.h"

struct model_dir_times {
    struct timespec m, c;
};

struct model_dir_options {
    const struct select *select; /* NULL: everything */
    bool follow_links;           /* wherever they point to, directories too */
    bool no_links;               /* refuse them all */
};

struct model_dir {
    struct tbenc_input *inputs;    /* fds and paths are owned */
    struct model_dir_times *times; /* of each input when it was opened */
    size_t n, capacity;
    char **left_out; /* paths; a directory ends in '/' */
    size_t n_left_out;
    uint64_t bytes;    /* of all files */
    size_t empty_dirs; /* directories without any file: a file table does not keep them */
};

struct model_dir_error {
    char *object; /* heap; the path at fault */
    const char *reason, *remedy;
    char *text; /* heap: of the reason, or NULL */
};
static inline void model_dir_error_clear(struct model_dir_error *e)
{
    tb_freep(&e->object);
    tb_freep(&e->text);
}
#define _cleanup_model_dir_error_ _cleanup_(model_dir_error_clear)

/* Opens every file. 0, or a negative errno with *e filled (e->reason NULL: strerror says it all):
 * -EMEDIUMTYPE something that is not a regular file; -EILSEQ a name; -E2BIG too many files or bytes; others
 * from the system. Raises the soft limit of open files to the hard one. */
int model_dir_open(const char *root, const struct model_dir_options *o, struct model_dir *ret,
                   struct model_dir_error *e);
/* After reading: -ESTALE with *e filled when size, mtime or ctime of a file is no longer what it was. */
int model_dir_check_unchanged(const struct model_dir *m, const char *root, struct model_dir_error *e);
void model_dir_close(struct model_dir *m);
#define _cleanup_model_dir_ _cleanup_(model_dir_close)

#endif
