/* SPDX-License-Identifier: Apache-2.0 */
/* What is answered to a request of S3's REST API, by the files of a manifest in one bucket. No I/O. */
#ifndef TB_DECRYPT_S3_ANSWER_H
#define TB_DECRYPT_S3_ANSWER_H

#include "common/buf.h"
#include "decrypt/s3_bucket.h"
#include "decrypt/s3_request.h"

struct s3_body { /* what follows the text of the answer: bytes from..end-1 of a file; none: from == end */
    size_t file;
    uint64_t from, end;
};

/* Appends the answer to out. error: what s3_request_parse() said, or S3_BUSY. Returns what it comes to:
 * S3_DENIED where the bucket's name was not given, whatever else was asked for. */
enum s3_error s3_answer(const struct s3_bucket *b, const struct s3_request *q, enum s3_error error,
                        struct tb_buf *out, struct s3_body *ret);

#endif
