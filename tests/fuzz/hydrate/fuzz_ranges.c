/* SPDX-License-Identifier: Apache-2.0 */
/* The record of finished ranges: one set has exactly one text, and a whole record read back is the same. */
#include "hydrate/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_set(const char *s, size_t size)
{
    _cleanup_ranges_ struct ranges r = {0};
    _cleanup_free_ char *again = NULL;

    if (ranges_init(&r, 100001, 100) < 0 || ranges_parse(&r, s, size) < 0)
        return;
    again = ranges_format(&r);
    if (!again || strlen(again) != size || memcmp(again, s, size) != 0 || r.bytes > r.size)
        abort();
    if (r.prefix < r.n && ranges_has(&r, r.prefix))
        abort();
}

static void fuzz_record(const char *s, size_t size)
{
    _cleanup_ranges_ struct ranges r = {0}, back = {0};
    _cleanup_free_ char *text = NULL;
    struct partial_identity id, id_back;
    char instance[INSTANCE_MAX], instance_back[INSTANCE_MAX];

    if (record_parse(s, size, &id, instance, &r) < 0)
        return;
    text = record_format(&id, instance, &r);
    if (!text || record_parse(text, strlen(text), &id_back, instance_back, &back) < 0 ||
        back.bytes != r.bytes || id.size != id_back.size || strcmp(instance, instance_back) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_set((const char *)data, size);
    fuzz_record((const char *)data, size);
    return 0;
}
