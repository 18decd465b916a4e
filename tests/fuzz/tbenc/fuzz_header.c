/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever tbenc_header_parse() takes is what tbenc_header_format() writes (strict), in every field that has
 * a meaning. */
#include <stdlib.h>
#include <string.h>

#include "tbenc/tbenc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tbenc_header h;
    struct tbenc_error e;
    uint8_t out[TBENC_HEADER_BYTES];

    if (tbenc_header_parse(data, size, 0, &h, &e) == 0) {
        tbenc_header_format(&h, out);
        if (memcmp(out, data, sizeof(out)) != 0)
            abort();
    }
    if (tbenc_header_parse(data, size, TBENC_LENIENT, &h, NULL) == 0 &&
        (h.chunk_bytes < 1 || h.chunk_bytes > TBENC_CHUNK_BYTES_MAX))
        abort();
    return 0;
}
