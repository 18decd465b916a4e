/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/ranges.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

static uint64_t ranges_count(uint64_t size, uint64_t chunk)
{
    return size / chunk + (size % chunk != 0);
}

uint64_t ranges_chunk_for(uint64_t size, uint64_t want)
{
    while (ranges_count(size, want) > RANGES_MAX)
        want *= 2;
    return want;
}

int ranges_init(struct ranges *r, uint64_t size, uint64_t chunk)
{
    uint64_t n;
    uint8_t *bits;

    if (size == 0 || chunk == 0)
        return -EINVAL;
    n = ranges_count(size, chunk);
    if (n > RANGES_MAX)
        return -EFBIG;
    bits = calloc(1, (size_t)(n + 7) / 8);
    if (!bits)
        return -ENOMEM;
    *r = (struct ranges){.size = size, .chunk = chunk, .n = n, .bits = bits};
    return 0;
}

void ranges_clear(struct ranges *r)
{
    free(r->bits);
    *r = (struct ranges){0};
}

int ranges_copy(struct ranges *to, const struct ranges *from)
{
    int r;

    r = ranges_init(to, from->size, from->chunk);
    if (r < 0)
        return r;
    memcpy(to->bits, from->bits, ranges_bitmap_bytes(from));
    to->prefix = from->prefix;
    to->bytes = from->bytes;
    return 0;
}

uint64_t ranges_start(const struct ranges *r, uint64_t i)
{
    return i * r->chunk;
}

uint64_t ranges_len(const struct ranges *r, uint64_t i)
{
    return MIN(r->chunk, r->size - ranges_start(r, i));
}

size_t ranges_bitmap_bytes(const struct ranges *r)
{
    return (size_t)(r->n + 7) / 8;
}

bool ranges_has(const struct ranges *r, uint64_t i)
{
    return r->bits[i / 8] >> (i % 8) & 1;
}

void ranges_add(struct ranges *r, uint64_t i)
{
    assert(i < r->n);
    if (ranges_has(r, i))
        return;
    r->bits[i / 8] |= (uint8_t)(1U << (i % 8));
    r->bytes += ranges_len(r, i);
    while (r->prefix < r->n && ranges_has(r, r->prefix))
        r->prefix++;
}

uint64_t ranges_next_missing(const struct ranges *r, uint64_t from)
{
    if (from < r->prefix)
        from = r->prefix;
    while (from < r->n && ranges_has(r, from))
        from++;
    return from;
}

uint64_t ranges_prefix_bytes(const struct ranges *r)
{
    return MIN(r->prefix * r->chunk, r->size);
}

char *ranges_format(const struct ranges *r)
{
    _cleanup_free_ char *text = NULL;
    size_t len = 0;
    FILE *f;

    f = open_memstream(&text, &len);
    if (!f)
        return NULL;
    for (uint64_t i = 0; i < r->n; i++) {
        uint64_t first = i;

        if (!ranges_has(r, i))
            continue;
        while (i + 1 < r->n && ranges_has(r, i + 1))
            i++;
        fprintf(f, "%s%" PRIu64, ftello(f) > 0 ? "," : "", first);
        if (i > first)
            fprintf(f, "-%" PRIu64, i);
    }
    if (fclose(f) != 0)
        return NULL;
    return TAKE_PTR(text);
}

/* An index below n. Leading zeros are refused: one set has one text. */
static int ranges_take_index(const char **p, const char *end, uint64_t n, uint64_t *ret)
{
    const char *s = *p;
    uint64_t v = 0;

    for (; s < end && *s >= '0' && *s <= '9'; s++) {
        v = v * 10 + (uint64_t)(*s - '0');
        if (v >= n || (s > *p && **p == '0'))
            return -EINVAL;
    }
    if (s == *p)
        return -EINVAL;
    *p = s;
    *ret = v;
    return 0;
}

int ranges_parse(struct ranges *r, const char *s, size_t len)
{
    const char *end = s + len;
    uint64_t floor = 0; /* lowest index the next run may start with */

    while (s < end) {
        uint64_t first, last;

        if (ranges_take_index(&s, end, r->n, &first) < 0 || first < floor)
            return -EINVAL;
        last = first;
        if (s < end && *s == '-') {
            s++;
            if (ranges_take_index(&s, end, r->n, &last) < 0 || last <= first)
                return -EINVAL;
        }
        for (uint64_t i = first; i <= last; i++)
            ranges_add(r, i);
        floor = last + 2;
        if (s == end)
            break;
        if (*s != ',' || s + 1 == end)
            return -EINVAL;
        s++;
    }
    return 0;
}
