/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the skeleton of a .tbenc, header and record lengths, and says what is wrong with it instead of
 * stopping at the first error. No key. Records are hopped over, not read: one small read for each. */
#ifndef TBPKG_ASSET_SCAN_H
#define TBPKG_ASSET_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tbenc/tbenc.h"

#define SCAN_PROBLEMS_MAX 8
#define SCAN_TEXT_MAX 256

struct scan {
    uint64_t bytes; /* of the file */
    bool has_header;
    struct tbenc_header header;
    uint64_t records, plaintext_bytes; /* of the whole records from the start */
    char problems[SCAN_PROBLEMS_MAX][SCAN_TEXT_MAX];
    size_t n_problems;
};

/* m may be NULL: then only contradictions within the file are found. 0, or -errno of reading. */
int scan_ciphertext(int fd, uint64_t bytes, const struct tbenc_manifest *m, unsigned flags, struct scan *ret);

#endif
