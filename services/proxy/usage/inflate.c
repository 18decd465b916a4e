/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/inflate.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#include <strings.h>
#include <zlib.h>

#include "common/macros.h"

#define INFLATE_PIECE (16 * 1024)
#define GZIP_OR_ZLIB (32 + MAX_WBITS) /* told by the header */

struct tb_inflate {
    z_stream z;
    bool member, over; /* member: a whole one has been read; over: nothing to read comes any more */
};

bool tb_inflate_knows(const char *coding)
{
    return strcasecmp(coding, "gzip") == 0 || strcasecmp(coding, "x-gzip") == 0 ||
           strcasecmp(coding, "deflate") == 0;
}

struct tb_inflate *tb_inflate_new(void)
{
    struct tb_inflate *d = calloc(1, sizeof(*d));

    if (d && inflateInit2(&d->z, GZIP_OR_ZLIB) != Z_OK) {
        free(d);
        return NULL;
    }
    return d;
}

bool tb_inflate_feed(struct tb_inflate *d, const char *p, size_t n,
                     void (*each)(void *arg, const char *p, size_t n), void *arg)
{
    char out[INFLATE_PIECE];

    if (d->over)
        return true;
    d->z.next_in = (Bytef *)(uintptr_t)p;
    d->z.avail_in = (uInt)MIN(n, UINT_MAX);
    do {
        int r;

        d->z.next_out = (Bytef *)out;
        d->z.avail_out = sizeof(out);
        r = inflate(&d->z, Z_SYNC_FLUSH);
        if (d->z.avail_out < sizeof(out))
            each(arg, out, sizeof(out) - d->z.avail_out); /* what stands before the damage, too */
        if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR) {
            d->over = d->member && d->z.total_out == 0; /* padding behind the last member */
            return d->over;
        }
        if (r == Z_STREAM_END) { /* another may follow */
            d->member = true;
            d->over = inflateReset(&d->z) != Z_OK;
        }
    } while ((d->z.avail_out == 0 || d->z.avail_in > 0) && !d->over);
    return true;
}

void tb_inflate_free(struct tb_inflate *d)
{
    if (!d)
        return;
    (void)inflateEnd(&d->z);
    free(d);
}
