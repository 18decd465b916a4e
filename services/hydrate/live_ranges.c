/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/live_ranges.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"

#define LIVE_MAGIC "TBLIVE01"

struct live_header {
    char magic[8];
    char boot_id[TB_BOOT_ID_MAX - 1];
    char instance[INSTANCE_MAX - 1];
};

static int live_ranges_make_header(const char *instance, struct live_header *ret)
{
    char id[TB_BOOT_ID_MAX];
    int r = tb_boot_id(id);

    if (r < 0)
        return r;
    memcpy(ret->magic, LIVE_MAGIC, sizeof(ret->magic));
    memcpy(ret->boot_id, id, sizeof(ret->boot_id));
    memcpy(ret->instance, instance, sizeof(ret->instance));
    return 0;
}

int live_ranges_load(const char *path, const char *instance, struct ranges *ranges)
{
    _cleanup_close_ int fd = -1;
    _cleanup_free_ uint8_t *bits = NULL;
    size_t n = ranges_bitmap_bytes(ranges);
    struct live_header want, have;
    int r;

    r = live_ranges_make_header(instance, &want);
    if (r < 0)
        return r;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    bits = malloc(n);
    if (!bits)
        return -ENOMEM;
    if (tb_read_full(fd, &have, sizeof(have)) != (ssize_t)sizeof(have) ||
        memcmp(&have, &want, sizeof(want)) != 0 || tb_read_full(fd, bits, n) != (ssize_t)n)
        return -ESTALE;
    for (uint64_t i = 0; i < ranges->n; i++)
        if (bits[i / 8] >> (i % 8) & 1)
            ranges_add(ranges, i);
    return 0;
}

int live_ranges_create(const char *path, const char *instance, const struct ranges *ranges)
{
    _cleanup_close_ int fd = -1;
    struct live_header h;
    int r;

    r = live_ranges_make_header(instance, &h);
    if (r < 0)
        return r;
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0640);
    if (fd < 0)
        return -errno;
    /* the header last: a file cut short by SIGKILL must not look valid */
    r = tb_pwrite_full(fd, ranges->bits, ranges_bitmap_bytes(ranges), sizeof(h));
    if (r == 0)
        r = tb_pwrite_full(fd, &h, sizeof(h), 0);
    return r < 0 ? r : TAKE_FD(fd);
}

int live_ranges_mark(int fd, const struct ranges *ranges, uint64_t i)
{
    return tb_pwrite_full(fd, &ranges->bits[i / 8], 1, sizeof(struct live_header) + i / 8);
}
