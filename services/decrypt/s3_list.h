/* SPDX-License-Identifier: Apache-2.0 */
/* ListObjectsV2 and ListObjects. A name that has the delimiter behind the prefix stands, with all that begin
 * alike, for one entry. The list goes on behind the last entry, which is therefore what a continuation token
 * says. No I/O. */
#ifndef TB_DECRYPT_S3_LIST_H
#define TB_DECRYPT_S3_LIST_H

#include "common/buf.h"
#include "decrypt/s3_bucket.h"
#include "decrypt/s3_request.h"

/* Appends the XML. Or S3_BUSY: there is no memory; S3_NEEDS_ENCODING: a name in it cannot be written in XML,
 * and the client did not ask for encoding-type=url. Then what was appended is void. */
enum s3_error s3_list(const struct s3_bucket *b, const struct s3_request *q, struct tb_buf *out);

#endif
