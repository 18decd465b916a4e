/* SPDX-License-Identifier: Apache-2.0 */
/* Compressed answers. In pieces they decode to what they do in one, however they are damaged; a bomb costs no memory. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "proxy/usage/inflate.h"

#define BYTES_MAX (64UL * 1024 * 1024)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct decoded {
    uint64_t bytes, hash;
};

static void take(void *arg, const char *p, size_t n)
{
    struct decoded *d = arg;

    d->bytes += n;
    for (size_t i = 0; i < n && d->bytes < BYTES_MAX; i++)
        d->hash = (d->hash ^ (uint8_t)p[i]) * 1099511628211ULL;
}

static bool run(const uint8_t *data, size_t size, size_t step, struct decoded *ret)
{
    struct tb_inflate *d = tb_inflate_new();
    bool ok = true;

    *ret = (struct decoded){0};
    for (size_t i = 0; ok && i < size; i += step) {
        size_t n = MIN(step, size - i);
        char *piece = malloc(n);

        memcpy(piece, data + i, n);
        ok = tb_inflate_feed(d, piece, n, take, ret);
        free(piece);
    }
    tb_inflate_free(d);
    return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct decoded one, two;

    if (size == 0)
        return 0;
    if (run(data + 1, size - 1, size, &one) != run(data + 1, size - 1, 1 + data[0] % 32, &two) ||
        one.bytes != two.bytes || one.hash != two.hash)
        abort();
    return 0;
}
