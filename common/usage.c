/* SPDX-License-Identifier: Apache-2.0 */
#include "common/usage.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>

#include "common/hex.h"
#include "common/mapfile.h"
#include "common/secret.h"
#include "common/units.h"

#define USAGE_MAGIC "TBUSAGE1"
#define USAGE_BYTES 4096

struct usage_map {
    char magic[8];
    uint8_t epoch[16];
    _Atomic uint64_t value[_TB_USAGE_MAX];
};
_Static_assert(sizeof(struct usage_map) <= USAGE_BYTES, "counters outgrew their page");

struct tb_usage {
    int fd; /* holds the lock */
    struct usage_map *map;
};

const char *tb_usage_name(enum tb_usage_counter c)
{
    static const char *const name[_TB_USAGE_MAX] = {
        [TB_USAGE_REQUESTS] = "requests",
        [TB_USAGE_BYTES_IN] = "bytes_in",
        [TB_USAGE_BYTES_OUT] = "bytes_out",
        [TB_USAGE_PROMPT_TOKENS] = "prompt_tokens",
        [TB_USAGE_COMPLETION_TOKENS] = "completion_tokens",
        [TB_USAGE_CACHED_TOKENS] = "cached_tokens",
        [TB_USAGE_ESTIMATED_TOKENS] = "estimated_tokens",
    };

    return (unsigned)c < _TB_USAGE_MAX ? name[c] : NULL;
}

#define BIT(c) (1U << TB_USAGE_##c)
const struct tb_usage_dimension tb_usage_dimension[TB_USAGE_DIMENSIONS] = {
    {"requests", BIT(REQUESTS), 1},
    {"prompt_tokens", BIT(PROMPT_TOKENS), 1},
    {"completion_tokens", BIT(COMPLETION_TOKENS), 1},
    {"cached_tokens", BIT(CACHED_TOKENS), 1},
    {"tokens", BIT(PROMPT_TOKENS) | BIT(COMPLETION_TOKENS), 1},
    {"bytes", BIT(BYTES_IN) | BIT(BYTES_OUT), 1},
    {"gb_transferred", BIT(BYTES_IN) | BIT(BYTES_OUT), 1ULL << 30},
};

int tb_usage_dimensions_parse(const char *list, uint32_t *ret)
{
    uint32_t mask = 0;

    for (;;) {
        size_t n, i;

        list += strspn(list, " ");
        n = strcspn(list, ", ");
        for (i = 0; i < TB_USAGE_DIMENSIONS; i++)
            if (strlen(tb_usage_dimension[i].name) == n && memcmp(tb_usage_dimension[i].name, list, n) == 0)
                break;
        if (i == TB_USAGE_DIMENSIONS || mask & 1U << i)
            return -EINVAL;
        mask |= 1U << i;
        list += n;
        list += strspn(list, " ");
        if (*list == '\0')
            break;
        if (*list++ != ',')
            return -EINVAL;
    }
    *ret = mask;
    return 0;
}

static int usage_create(const char *path)
{
    char page[USAGE_BYTES] = USAGE_MAGIC;
    int r = tb_random(page + offsetof(struct usage_map, epoch), 16);

    return r < 0 ? r : tb_mapfile_create(path, page, sizeof(page));
}

static int usage_open_locked(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int tb_usage_open(const char *path, struct tb_usage **ret)
{
    struct tb_usage *u = NULL;
    int r = -EBADMSG;

    for (int tries = 0; tries < 3 && r == -EBADMSG; tries++) {
        _cleanup_close_ int fd = -1;
        void *map;

        r = usage_create(path);
        if (r < 0)
            return r;
        fd = usage_open_locked(path);
        if (fd < 0)
            return fd;
        r = tb_mapfile_map(fd, USAGE_MAGIC, USAGE_BYTES, true, &map);
        if (r == 0) {
            u = malloc(sizeof(*u));
            if (!u) {
                munmap(map, USAGE_BYTES);
                return -ENOMEM;
            }
            *u = (struct tb_usage){.fd = TAKE_FD(fd), .map = map};
        } else if (r == -EBADMSG) {
            r = tb_mapfile_set_aside(path);
            r = r < 0 ? r : -EBADMSG; /* once more, with a new one */
        }
    }
    if (r == 0)
        *ret = u;
    return r;
}

void tb_usage_add(struct tb_usage *u, enum tb_usage_counter c, uint64_t n)
{
    assert((unsigned)c < _TB_USAGE_MAX);
    /* One thread adds: no other can come between, and a locked addition costs as much as a small copy. */
    atomic_store_explicit(&u->map->value[c], tb_usage_get(u, c) + n, memory_order_relaxed);
}

uint64_t tb_usage_get(const struct tb_usage *u, enum tb_usage_counter c)
{
    return atomic_load_explicit(&u->map->value[c], memory_order_relaxed);
}

void tb_usage_close(struct tb_usage *u)
{
    if (!u)
        return;
    (void)msync(u->map, USAGE_BYTES, MS_SYNC);
    munmap(u->map, USAGE_BYTES);
    close(u->fd);
    free(u);
}

int tb_usage_keep(struct tb_usage *u, const char *path)
{
    return tb_mapfile_keep(path, &u->fd, u->map, USAGE_BYTES, false, true);
}

int tb_usage_read(const char *path, struct tb_usage_snapshot *ret)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    const struct usage_map *map;
    void *p;
    int r = fd < 0 ? -errno : tb_mapfile_map(fd, USAGE_MAGIC, USAGE_BYTES, false, &p);

    if (r < 0)
        return r;
    map = p;
    tb_hex_encode(map->epoch, sizeof(map->epoch), ret->epoch);
    for (int i = 0; i < _TB_USAGE_MAX; i++)
        ret->value[i] = atomic_load_explicit(&map->value[i], memory_order_relaxed);
    munmap(p, USAGE_BYTES);
    /* What is booked must not be less after a power failure, or the counters would seem to have gone back. */
    return fdatasync(fd) < 0 ? -errno : 0;
}
