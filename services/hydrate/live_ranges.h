/* SPDX-License-Identifier: Apache-2.0 */
/* NAME.part.live: which ranges are in the page cache. A fixed header (magic, boot id, instance of the
 * record) and the bitmap of ranges.h. Valid only during the boot that wrote it. */
#ifndef TB_HYDRATE_LIVE_RANGES_H
#define TB_HYDRATE_LIVE_RANGES_H

#include "hydrate/ranges.h"
#include "hydrate/record.h"

/* Adds to `ranges` what the file at path says. -ESTALE: of another boot or download, or cut: nothing is
 * added. -errno. */
int live_ranges_load(const char *path, const char *instance, struct ranges *ranges);
/* Writes the file anew from `ranges`. fd for live_ranges_mark(), or -errno; -ENOTSUP when the kernel tells no
 * boot id. */
int live_ranges_create(const char *path, const char *instance, const struct ranges *ranges);
/* Writes the byte of the bitmap that holds range i. */
int live_ranges_mark(int fd, const struct ranges *ranges, uint64_t i);

#endif
