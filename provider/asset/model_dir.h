/* SPDX-License-Identifier: Apache-2.0 */
/* A model directory as the inputs of tbenc_seal(): every regular file below it, hidden ones too, sorted
 * bytewise by relative path. What an asset cannot carry faithfully (links, sockets, devices, names that are
 * no UTF-8) is refused by name instead of being left out. */
#ifndef TBPKG_ASSET_MODEL_DIR_H
#define TBPKG_ASSET_MODEL_DIR_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/macros.h"
#include "tbenc/tbenc.h"

struct model_dir {
    struct tbenc_input *inputs; /* fds and paths are owned */
    struct timespec *mtimes;    /* of each input when it was opened */
    size_t n, capacity;
    uint64_t bytes;    /* of all files */
    size_t empty_dirs; /* directories without any file: a file table does not keep them */
};

struct model_dir_error {
    char *object; /* heap; the path at fault */
    const char *reason, *remedy;
};
static inline void model_dir_error_clear(struct model_dir_error *e)
{
    tb_freep(&e->object);
}
#define _cleanup_model_dir_error_ _cleanup_(model_dir_error_clear)

/* Opens every file. 0, or a negative errno with *e filled (e->reason NULL: strerror says it all):
 * -EMEDIUMTYPE something that is not a regular file; -EILSEQ a name; -E2BIG too many files or bytes; others
 * from the system. Raises the soft limit of open files to the hard one. */
int model_dir_open(const char *root, struct model_dir *ret, struct model_dir_error *e);
/* After reading: -ESTALE with *e filled when size or mtime of a file is no longer what it was. */
int model_dir_check_unchanged(const struct model_dir *m, const char *root, struct model_dir_error *e);
void model_dir_close(struct model_dir *m);
#define _cleanup_model_dir_ _cleanup_(model_dir_close)

#endif
