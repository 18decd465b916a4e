/* SPDX-License-Identifier: Apache-2.0 */
/* Response header values that decide whether bytes may be written. Pure parsers: (buf, len), no I/O. RFC
 * 9110. */
#ifndef TB_HYDRATE_CONTENT_RANGE_H
#define TB_HYDRATE_CONTENT_RANGE_H

#include <stddef.h>
#include <stdint.h>

#define ETAG_MAX 128 /* with quotes and NUL */

struct content_range {
    uint64_t first, last; /* inclusive */
    uint64_t total;
};

/* "bytes FIRST-LAST/TOTAL", white space around it allowed, first <= last < total. -EINVAL for anything
 * else: an unknown total ("*") or an unsatisfied range are no base for writing. */
int content_range_parse(const char *s, size_t len, struct content_range *ret);

/* "bytes *" "/TOTAL", which comes with 416. -EINVAL for anything else. */
int content_range_total(const char *s, size_t len, uint64_t *ret);

/* Copies a strong entity tag ("...", quotes included) that may be sent back in If-Match. -EINVAL: weak,
 * malformed or too long. */
int etag_parse(const char *s, size_t len, char ret[static ETAG_MAX]);

/* Unsigned decimal filling the whole value but white space around it. -EINVAL. */
int header_uint_parse(const char *s, size_t len, uint64_t *ret);

#endif
