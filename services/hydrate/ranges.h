/* SPDX-License-Identifier: Apache-2.0 */
/* Which equal ranges of a file are there: a bitmap with its text form "0-17,19". No I/O, no locks. */
#ifndef TB_HYDRATE_RANGES_H
#define TB_HYDRATE_RANGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define RANGES_MAX (1U << 20) /* ranges of one file: 128 KiB of bitmap */

struct ranges {
    uint64_t size;   /* of the file, > 0 */
    uint64_t chunk;  /* of each range but the last, > 0 */
    uint64_t n;      /* ranges */
    uint64_t prefix; /* ranges [0, prefix) are there, range `prefix` is not */
    uint64_t bytes;  /* that are there */
    uint8_t *bits;   /* bit i%8 of byte i/8, little end first */
};

/* `want` doubled until the file has at most RANGES_MAX ranges. */
uint64_t ranges_chunk_for(uint64_t size, uint64_t want);
/* Empty set. -EINVAL: size or chunk 0; -EFBIG: more than RANGES_MAX ranges; -ENOMEM. */
int ranges_init(struct ranges *r, uint64_t size, uint64_t chunk);
void ranges_clear(struct ranges *r);
#define _cleanup_ranges_ _cleanup_(ranges_clear)
int ranges_copy(struct ranges *to, const struct ranges *from);

uint64_t ranges_start(const struct ranges *r, uint64_t i);
uint64_t ranges_len(const struct ranges *r, uint64_t i);
size_t ranges_bitmap_bytes(const struct ranges *r);
bool ranges_has(const struct ranges *r, uint64_t i);
/* Adds range i; adding twice is fine. */
void ranges_add(struct ranges *r, uint64_t i);
/* First range at or after `from` that is not there; r->n when there is none. */
uint64_t ranges_next_missing(const struct ranges *r, uint64_t from);
/* Bytes from the start of the file without a gap. */
uint64_t ranges_prefix_bytes(const struct ranges *r);

/* Heap string, "" for the empty set. NULL on ENOMEM. */
char *ranges_format(const struct ranges *r);
/* Adds what the text says. Strict: ascending, disjoint, not touching, inside the file, nothing else. On
 * -EINVAL the set may hold a part of it. */
int ranges_parse(struct ranges *r, const char *s, size_t len);

#endif
