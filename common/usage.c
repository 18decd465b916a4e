/* SPDX-License-Identifier: Apache-2.0 */
#include "common/usage.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/hex.h"
#include "common/io.h"
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

/* A new file is filled before it gets its name: a crash leaves either none or a whole one. */
static int usage_create(const char *path)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    char page[USAGE_BYTES] = USAGE_MAGIC;
    int r;

    r = tb_random(page + offsetof(struct usage_map, epoch), 16);
    if (r < 0)
        return r;
    r = tb_newfile_open(&f, path, 0640);
    if (r < 0)
        return r;
    r = tb_write_full(f.fd, page, sizeof(page));
    if (r < 0)
        return r;
    r = tb_newfile_commit(&f, false);
    return r == -EEXIST ? 0 : r;
}

static int usage_valid(int fd)
{
    char magic[8];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size != USAGE_BYTES ||
        tb_pread_full(fd, magic, sizeof(magic), 0) != sizeof(magic))
        return -EBADMSG;
    return memcmp(magic, USAGE_MAGIC, sizeof(magic)) == 0 ? 0 : -EBADMSG;
}

static int open_locked(const char *path)
{
    _cleanup_close_ int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static int set_aside(const char *path)
{
    char now[TB_RFC3339_MAX];
    _cleanup_free_ char *to = tb_strf("%s.corrupt-%s", path, tb_rfc3339_format(tb_now_realtime_us(), 1, now));

    if (!to)
        return -ENOMEM;
    return rename(path, to) < 0 ? -errno : 0;
}

int tb_usage_open(const char *path, struct tb_usage **ret)
{
    _cleanup_close_ int fd = -1;
    struct tb_usage *u;
    int r = 0;
    void *map;

    for (int tries = 0; tries < 3; tries++) {
        r = usage_create(path);
        if (r < 0)
            return r;
        fd = open_locked(path);
        if (fd < 0)
            return fd;
        r = usage_valid(fd);
        if (r != -EBADMSG)
            break;
        fd = tb_close(fd);
        r = set_aside(path);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    map = mmap(NULL, USAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    u = malloc(sizeof(*u));
    if (!u) {
        munmap(map, USAGE_BYTES);
        return -ENOMEM;
    }
    *u = (struct tb_usage){.fd = TAKE_FD(fd), .map = map};
    *ret = u;
    return 0;
}

void tb_usage_add(struct tb_usage *u, enum tb_usage_counter c, uint64_t n)
{
    atomic_fetch_add_explicit(&u->map->value[c], n, memory_order_relaxed);
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

int tb_usage_read(const char *path, struct tb_usage_snapshot *ret)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    const struct usage_map *map;
    void *p;
    int r;

    if (fd < 0)
        return -errno;
    r = usage_valid(fd);
    if (r < 0)
        return r;
    p = mmap(NULL, USAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    map = p;
    tb_hex_encode(map->epoch, sizeof(map->epoch), ret->epoch);
    for (int i = 0; i < _TB_USAGE_MAX; i++)
        ret->value[i] = atomic_load_explicit(&map->value[i], memory_order_relaxed);
    munmap(p, USAGE_BYTES);
    /* What is booked must not be less after a power failure, or the counters would seem to have gone back. */
    return fdatasync(fd) < 0 ? -errno : 0;
}
