/* SPDX-License-Identifier: Apache-2.0 */
/* A model directory as the inputs of tbenc_seal(): every regular file below it, hidden ones too, sorted bytewise by
 * relative path. What an asset cannot carry faithfully (links, sockets, devices, names that are no UTF-8) is refused by
 * name instead of being left out. */
#ifndef TBPKG_MODELDIR_H
#define TBPKG_MODELDIR_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "macros.h"
#include "tbenc.h"

struct modeldir {
    struct tbenc_input *inputs; /* fds and paths are owned */
    struct timespec *mtimes;    /* of each input when it was opened */
    size_t n, capacity;
    uint64_t bytes;    /* of all files */
    size_t empty_dirs; /* directories without any file: a file table does not keep them */
};

struct modeldir_error {
    char *object; /* heap; the path at fault */
    const char *reason, *remedy;
};
static inline void modeldir_error_clear(struct modeldir_error *e)
{
    tb_freep(&e->object);
}
#define _cleanup_modeldir_error_ _cleanup_(modeldir_error_clear)

/* Opens every file. 0, or a negative errno with *e filled (e->reason NULL: strerror says it all):
 * -EMEDIUMTYPE something that is no regular file; -EILSEQ a name; -E2BIG too many files or bytes; others from the system.
 * Raises the soft limit of open files to the hard one. */
int modeldir_open(const char *root, struct modeldir *ret, struct modeldir_error *e);
/* After reading: -ESTALE with *e filled when size or mtime of a file is no longer what it was. */
int modeldir_check_unchanged(const struct modeldir *m, const char *root, struct modeldir_error *e);
void modeldir_close(struct modeldir *m);
#define _cleanup_modeldir_ _cleanup_(modeldir_close)

#endif
