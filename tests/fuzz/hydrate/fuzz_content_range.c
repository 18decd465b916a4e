/* SPDX-License-Identifier: Apache-2.0 */
/* What a server says in response headers: Content-Range, ETag, Content-Length. */
#include "hydrate/content_range.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *s = (const char *)data;
    struct content_range cr;
    char etag[ETAG_MAX];
    uint64_t v;

    if (content_range_parse(s, size, &cr) == 0 && (cr.first > cr.last || cr.last >= cr.total))
        abort();
    /* it goes back to the server in a header line of ours */
    if (etag_parse(s, size, etag) == 0 && (strlen(etag) < 2 || strpbrk(etag, "\r\n ") || etag[0] != '"'))
        abort();
    (void)header_uint_parse(s, size, &v);
    return 0;
}
