/* SPDX-License-Identifier: Apache-2.0 */
/* The text of NAME.part.json: which download it is and which ranges are on disk. Pure, no I/O. */
#ifndef TB_HYDRATE_RECORD_H
#define TB_HYDRATE_RECORD_H

#include <stdint.h>

#include "hydrate/content_range.h"
#include "hydrate/hasher.h"
#include "hydrate/ranges.h"

#define RECORD_MAX (16 * 1024 * 1024)
#define INSTANCE_MAX 33 /* 32 hex digits and NUL: ties the live bitmap to its record */

/* Which bytes these are. */
struct partial_identity {
    uint8_t sha256[SHA256_BYTES]; /* of the complete file */
    uint64_t size;
    uint64_t chunk;      /* bytes of a range */
    char etag[ETAG_MAX]; /* strong tag of the blob; "" while unknown or when the server has none */
};

/* ret_ranges is initialised on success and owned by the caller. -EBADMSG: not a record; -ENOMEM. */
int record_parse(const char *buf, size_t len, struct partial_identity *ret_id,
                 char ret_instance[static INSTANCE_MAX], struct ranges *ret_ranges);
/* Heap string, NULL on ENOMEM. */
char *record_format(const struct partial_identity *id, const char *instance, const struct ranges *ranges);

#endif
