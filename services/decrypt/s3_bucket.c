/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/s3_bucket.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <string.h>

#include "common/deliver.h"
#include "common/hex.h"
#include "common/macros.h"

#define ETAG_BYTES 16

int s3_bucket_init(struct s3_bucket *b, const struct tbenc_manifest *files, const uint8_t *manifest_sha256,
                   uint64_t time_us)
{
    uint8_t name[S3_BUCKET_BYTES];

    *b = (struct s3_bucket){.files = files, .manifest_sha256 = manifest_sha256, .time_us = time_us};
    if (RAND_bytes(name, sizeof(name)) != 1)
        return -EIO;
    tb_hex_encode(name, sizeof(name), b->name);
    snprintf(b->one_name, sizeof(b->one_name), "%s", files->weights_filename);
    (void)tb_deliver_name(b->one_name);
    return 0;
}

size_t s3_bucket_files(const struct s3_bucket *b)
{
    return b->files->files ? b->files->n_files : 1;
}

const char *s3_bucket_key(const struct s3_bucket *b, size_t file)
{
    return b->files->files ? b->files->files[file].path : b->one_name;
}

uint64_t s3_bucket_bytes(const struct s3_bucket *b, size_t file)
{
    return b->files->files ? b->files->files[file].bytes : b->files->plaintext_bytes;
}

void s3_bucket_etag(const struct s3_bucket *b, size_t file, char ret[static S3_ETAG_CHARS + 1])
{
    uint8_t in[TBENC_SHA256_BYTES + sizeof(uint64_t)], sha256[TBENC_SHA256_BYTES];
    uint64_t number = file;

    memcpy(in, b->manifest_sha256, TBENC_SHA256_BYTES);
    memcpy(in + TBENC_SHA256_BYTES, &number, sizeof(number));
    SHA256(in, sizeof(in), sha256);
    tb_hex_encode(sha256, ETAG_BYTES, ret);
    memcpy(ret + S3_ETAG_CHARS - 2, "-1", 3);
}

bool s3_bucket_opens(const struct s3_bucket *b, const char *name)
{
    char given[S3_BUCKET_CHARS] = "";
    size_t n = strlen(name);

    memcpy(given, name, MIN(n, sizeof(given)));
    return (CRYPTO_memcmp(given, b->name, sizeof(given)) == 0) & (n == sizeof(given));
}

/* The table is sorted as strcmp() sorts. */
bool s3_bucket_find(const struct s3_bucket *b, const char *key, size_t *ret)
{
    size_t lo = 0, hi = s3_bucket_files(b);

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int c = strcmp(key, s3_bucket_key(b, mid));

        if (c == 0) {
            *ret = mid;
            return true;
        }
        if (c < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return false;
}
