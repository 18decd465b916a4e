/* SPDX-License-Identifier: Apache-2.0 */
/* The files of a manifest as a bucket of S3, whose random name is the permission to read it. No I/O. */
#ifndef TB_DECRYPT_S3_BUCKET_H
#define TB_DECRYPT_S3_BUCKET_H

#include <stdbool.h>

#include "tbenc/tbenc.h"

#define S3_BUCKET_BYTES 16 /* random; the name is its hex */
#define S3_BUCKET_CHARS (2 * S3_BUCKET_BYTES)
#define S3_ETAG_CHARS 34 /* without quotes */

struct s3_bucket {
    char name[S3_BUCKET_CHARS + 1];
    const struct tbenc_manifest *files; /* borrowed */
    const uint8_t *manifest_sha256;     /* borrowed: what entity tags come from */
    char one_name[TBENC_NAME_MAX + 1];  /* of an asset without a table */
    uint64_t time_us;                   /* when all of it was last modified */
};

/* With a fresh random name. 0 or -EIO. */
int s3_bucket_init(struct s3_bucket *b, const struct tbenc_manifest *files, const uint8_t *manifest_sha256,
                   uint64_t time_us);
size_t s3_bucket_files(const struct s3_bucket *b);
const char *s3_bucket_key(const struct s3_bucket *b, size_t file);
uint64_t s3_bucket_bytes(const struct s3_bucket *b, size_t file);
/* Not the MD5 of the content, and so that no client takes it for that: it has a dash. */
void s3_bucket_etag(const struct s3_bucket *b, size_t file, char ret[static S3_ETAG_CHARS + 1]);
/* Takes the same time for every wrong name. */
bool s3_bucket_opens(const struct s3_bucket *b, const char *name);
/* false: no such file. */
bool s3_bucket_find(const struct s3_bucket *b, const char *key, size_t *ret);

#endif
