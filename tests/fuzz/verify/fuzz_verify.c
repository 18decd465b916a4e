/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-verify reads of the kernel's files, where names are of who made them. */
#include <stdlib.h>
#include <string.h>

#include "verify/claims.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = calloc(1, size + 1), name[64] = "";
    uint16_t ports[16];
    uint64_t v = 0;
    size_t n;

    if (!text)
        return 0;
    if (size)
        memcpy(text, data, size);
    if (verify_swaps_parse(text, name) > 0 && !memchr(name, 0, sizeof(name)))
        abort();
    (void)verify_core_limit_parse(text, &v);
    (void)verify_status_parse(text, "Seccomp", &v);
    n = verify_listeners_parse(text, ports, 16);
    if (n > 16)
        abort();
    for (size_t i = 1; i < n; i++)
        if (ports[i] <= ports[i - 1])
            abort();
    free(text);
    return 0;
}
