/* SPDX-License-Identifier: Apache-2.0 */
/* A request to the endpoint of mode s3 and its answer. "@" in it stands for the name of the bucket, which nobody would guess. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "decrypt/s3_answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path_a[] = "a&b", path_c[] = "b/c", path_e[] = "b/d/e", path_z[] = "z<é";
static struct tbenc_file files[] = {{.path = path_a, .bytes = 5},
                                    {.path = path_c},
                                    {.path = path_e, .bytes = 1ULL << 40},
                                    {.path = path_z, .bytes = 7}};
static struct tbenc_manifest manifest = {.files = files, .n_files = 4, .weights_filename = "w"};
static const uint8_t sha256[TBENC_SHA256_BYTES];
static struct s3_bucket bucket;
static struct s3_request q;

static void check(const char *buf, size_t len)
{
    _cleanup_buf_ struct tb_buf out = {0};
    struct s3_body body;
    enum s3_error e, got;
    size_t n = 0;

    if (s3_request_parse(buf, len, &n, &q, &e) < 0) {
        if (len >= S3_HEAD_MAX)
            abort();
        return;
    }
    if (n == 0 || n > len || q.used > sizeof(q.text) || e >= S3_ERRORS || q.max_keys > S3_KEYS_MAX ||
        (e != S3_OK && !q.close))
        abort();
    got = s3_answer(&bucket, &q, e, &out, &body);
    if (tb_buf_error(&out) < 0 || (e != S3_OK && got != e) || !memmem(out.data, out.len, "\r\n\r\n", 4))
        abort();
    if (body.from > body.end ||
        (body.end > 0 && (got != S3_OK || q.head || body.end > s3_bucket_bytes(&bucket, body.file))))
        abort();
    if (got == S3_OK &&
        (strlen(q.bucket) != S3_BUCKET_CHARS || memcmp(q.bucket, bucket.name, S3_BUCKET_CHARS) != 0))
        abort();
    check(buf + n, len - n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t n = 0;
    char *text; /* exactly as long as what is in it: a byte read beyond it is seen */

    if (!bucket.name[0] && s3_bucket_init(&bucket, &manifest, sha256, 1) < 0)
        abort();
    for (size_t i = 0; i < size; i++)
        n += data[i] == '@' ? S3_BUCKET_CHARS : 1;
    text = malloc(n + (n == 0));
    if (!text)
        abort();
    for (size_t i = 0, at = 0; i < size; i++) {
        if (data[i] == '@')
            memcpy(text + at, bucket.name, S3_BUCKET_CHARS);
        else
            text[at] = (char)data[i];
        at += data[i] == '@' ? S3_BUCKET_CHARS : 1;
    }
    check(text, n);
    free(text);
    return 0;
}
