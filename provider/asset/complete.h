/* SPDX-License-Identifier: Apache-2.0 */
/* Is the model all there? What a download that broke off, or a clone without Git LFS, leaves looks like a
 * model and is none. */
#ifndef TBPKG_ASSET_COMPLETE_H
#define TBPKG_ASSET_COMPLETE_H

#include <stdbool.h>

#include "provider/asset/model_dir.h"
#include "provider/asset/select.h"

/* The file is the pointer that Git LFS puts in its place. */
bool complete_is_lfs_pointer(int fd, uint64_t bytes);

/* "model-00002-of-00003.safetensors": 2 of 3. */
struct complete_part {
    unsigned part, of;
    size_t digits_at; /* of the five digits of part in the name */
};
bool complete_part_parse(const char *name, struct complete_part *ret);

/* No file is a private key, but for those of the rules of `wanted`. 0, -ENODATA or -ENOMEM,
 * as below. */
int complete_check_secrets(const struct model_dir *m, const struct select *wanted, const char *root,
                           struct model_dir_error *e);
/* Every file that an index names is there, every part of a numbered series, and no pointer stands for one. m
 * is sorted. 0, or -ENODATA or -ENOMEM with *e filled, whose object is below root. */
int complete_check(const struct model_dir *m, const char *root, struct model_dir_error *e);

#endif
