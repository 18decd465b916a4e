/* SPDX-License-Identifier: Apache-2.0 */
/* NAME.verified.json: which file (size, mtime, inode) had which SHA-256 when it was last hashed, so that a
 * start with a complete file neither downloads nor reads it again. Size, mtime and inode survive a rename:
 * the record may be written while the file still has its temporary name. With the entity tag of the blob that
 * it came from, where that was one. */
#ifndef TB_HYDRATE_VERIFIED_H
#define TB_HYDRATE_VERIFIED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "hydrate/content_range.h"
#include "hydrate/hasher.h"

#define VERIFIED_SUFFIX ".verified.json"

bool verified_matches(const char *final_path, const struct stat *st,
                      const uint8_t sha256[static SHA256_BYTES]);
/* It is the file that was verified, whenever it was written to since. */
bool verified_is_of(const char *final_path, const struct stat *st, const uint8_t sha256[static SHA256_BYTES]);
/* The record of some file of this name is there, and one of ours. */
bool verified_any(const char *final_path);
/* There was a file of this name with this hash, whatever is there now. */
bool verified_before(const char *final_path, const uint8_t sha256[static SHA256_BYTES]);
/* The tag that the record has; "" when it has none. */
void verified_etag(const char *final_path, const uint8_t sha256[static SHA256_BYTES],
                   char ret[static ETAG_MAX]);
/* Durable. Where the record says so already nothing is written. etag: NULL for the one that is there. 0 or
 * -errno. */
int verified_write(const char *final_path, const struct stat *st, const uint8_t sha256[static SHA256_BYTES],
                   const char *etag);

#endif
