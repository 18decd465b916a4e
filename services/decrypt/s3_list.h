/* SPDX-License-Identifier: Apache-2.0 */
/* ListObjectsV2 and ListObjects. A name that has the delimiter behind the prefix stands, with all that begin
 * alike, for one entry. The list goes on behind the last entry, which is therefore what a continuation token
 * says. No I/O. */
#ifndef TB_DECRYPT_S3_LIST_H
#define TB_DECRYPT_S3_LIST_H

#include "common/buf.h"
#include "decrypt/s3_bucket.h"
#include "decrypt/s3_request.h"

/* Appends the XML. */
void s3_list(const struct s3_bucket *b, const struct s3_request *q, struct tb_buf *out);

#endif
