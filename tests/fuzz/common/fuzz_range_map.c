/* SPDX-License-Identifier: Apache-2.0 */
/* The map of ranges and the wishes, as foreign bytes: refused, or a geometry that fits into them. */
#include <stdlib.h>
#include <string.h>

#include "common/range_map.h"
#include "common/want.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_range_map_id id;
    struct tb_want want;
    uint8_t *exact = malloc(size + 1);

    memcpy(exact, data, size);
    if (tb_range_map_parse(exact, size, &id) == 0 &&
        (id.size == 0 || id.chunk == 0 || (id.size - 1) / id.chunk + 1 != size - TB_RANGE_MAP_HEADER_BYTES))
        abort();
    if (tb_want_parse((const char *)exact, size, &want) == 0 && want.n > TB_WANT_MAX)
        abort();
    free(exact);
    return 0;
}
