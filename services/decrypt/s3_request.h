/* SPDX-License-Identifier: Apache-2.0 */
/* What a client of Amazon S3's REST API asks of a bucket that can only be read, by path-style addresses:
 * HTTP/1.1 (RFC 9112), GetObject, HeadObject, HeadBucket, GetBucketLocation, ListObjects and ListObjectsV2.
 * Signatures are not looked at: what opens the bucket is its name. No I/O. */
#ifndef TB_DECRYPT_S3_REQUEST_H
#define TB_DECRYPT_S3_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define S3_HEAD_MAX (16 * 1024) /* bytes of a request up to its empty line */
#define S3_KEYS_MAX 1000        /* in one answer */
#define S3_PARTS_MAX 10000      /* of a file, to S3 */

enum s3_error {
    S3_OK,
    S3_BAD_REQUEST,
    S3_HEAD_TOO_LARGE,
    S3_BAD_VERSION,
    S3_BAD_ARGUMENT,
    S3_NEEDS_ENCODING,
    S3_BAD_METHOD,
    S3_NOT_IMPLEMENTED,
    S3_DENIED,
    S3_NO_KEY,
    S3_BAD_RANGE,
    S3_BAD_PART,
    S3_PRECONDITION,
    S3_NOT_MODIFIED,
    S3_BUSY,
    S3_ERRORS
};

enum s3_range { S3_RANGE_NONE, S3_RANGE_FROM, S3_RANGE_LAST };

struct s3_request {
    bool head;            /* HEAD, not GET */
    bool close;           /* the client wants no other answer on this connection */
    const char *bucket;   /* decoded, in text, as all strings here; "": the address names none */
    const char *key;      /* NULL: the bucket itself is meant */
    bool list_v2, encode; /* list-type=2; encoding-type=url */
    bool location;
    const char *prefix, *delimiter;  /* "": none */
    const char *after;               /* marker, start-after or what the continuation token says; "": none */
    const char *start_after, *token; /* as they came; NULL: they did not */
    unsigned max_keys;
    bool first_part; /* partNumber=1, which is all of a file: a range as well */
    enum s3_range range;
    uint64_t from, to; /* S3_RANGE_FROM: to is UINT64_MAX where it was left open; S3_RANGE_LAST: to bytes */
    const char *if_match, *if_none_match, *if_range; /* NULL: there is none */
    size_t used;
    char text[2 * S3_HEAD_MAX];
};

/* Takes the request at the beginning of buf. 0: *ret_len bytes are it, and *ret_error says what is wrong with
 * it, if anything; then the connection must not be read any further. -EAGAIN: more of it must come. */
int s3_request_parse(const char *buf, size_t len, size_t *ret_len, struct s3_request *ret,
                     enum s3_error *ret_error);

/* A header of entity tags, as If-Match: does it name that one, which is without quotes? */
bool s3_request_names(const char *tags, const char *tag);

#endif
