/* SPDX-License-Identifier: Apache-2.0 */
#include "common/range_map.h"

#include <assert.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "common/io.h"

#define RANGE_MAP_MAGIC "TBRANGE1"

struct range_map_header {
    char magic[8];
    char boot_id[TB_BOOT_ID_MAX - 1];
    char instance[TB_RANGE_MAP_INSTANCE];
    uint8_t sha256[TB_RANGE_MAP_SHA256];
    uint8_t zero[4];
    uint64_t size, chunk;
    _Atomic uint32_t changes; /* the futex */
    _Atomic uint32_t state;
    uint8_t reserved[TB_RANGE_MAP_HEADER_BYTES - 136];
};
_Static_assert(sizeof(struct range_map_header) == TB_RANGE_MAP_HEADER_BYTES, "layout of the map");
_Static_assert(sizeof(_Atomic uint8_t) == 1, "a range is a byte");

struct tb_range_map {
    struct range_map_header *shared;
    _Atomic uint8_t *came; /* one for each range, behind the header */
    size_t bytes;
    struct tb_range_map_id id; /* as it was when it was checked */
    uint64_t n;
};

/* -- what is in it --------------------------------------------------------------------------------------- */
static uint64_t range_map_n(uint64_t size, uint64_t chunk)
{
    return size / chunk + (size % chunk != 0);
}

int tb_range_map_parse(const void *buf, size_t len, struct tb_range_map_id *ret)
{
    struct range_map_header h;
    uint64_t n;

    if (len < sizeof(h))
        return -EBADMSG;
    memcpy((void *)&h, buf, sizeof(h));
    if (memcmp(h.magic, RANGE_MAP_MAGIC, sizeof(h.magic)) != 0 || h.size == 0 || h.chunk == 0)
        return -EBADMSG;
    n = range_map_n(h.size, h.chunk);
    if (n > TB_RANGE_MAP_MAX || len != sizeof(h) + n)
        return -EBADMSG;
    *ret = (struct tb_range_map_id){.size = h.size, .chunk = h.chunk};
    memcpy(ret->sha256, h.sha256, sizeof(ret->sha256));
    memcpy(ret->instance, h.instance, sizeof(h.instance));
    return 0;
}

static int range_map_map(int fd, bool write, struct tb_range_map **ret)
{
    _cleanup_free_ struct tb_range_map *m = calloc(1, sizeof(*m));
    struct stat st;
    int r;

    if (!m)
        return -ENOMEM;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_size < (off_t)sizeof(struct range_map_header) ||
        st.st_size > (off_t)(sizeof(struct range_map_header) + TB_RANGE_MAP_MAX))
        return -EBADMSG;
    m->bytes = (size_t)st.st_size;
    m->shared = mmap(NULL, m->bytes, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (m->shared == MAP_FAILED)
        return -errno;
    r = tb_range_map_parse(m->shared, m->bytes, &m->id);
    if (r < 0) {
        munmap(m->shared, m->bytes);
        return r;
    }
    m->n = range_map_n(m->id.size, m->id.chunk);
    m->came = (_Atomic uint8_t *)(m->shared + 1);
    *ret = TAKE_PTR(m);
    return 0;
}

struct tb_range_map *tb_range_map_free(struct tb_range_map *m)
{
    if (!m)
        return NULL;
    munmap(m->shared, m->bytes);
    free(m);
    return NULL;
}

const struct tb_range_map_id *tb_range_map_id(const struct tb_range_map *m)
{
    return &m->id;
}

uint64_t tb_range_map_count(const struct tb_range_map *m)
{
    return m->n;
}

bool tb_range_map_has_range(const struct tb_range_map *m, uint64_t i)
{
    assert(i < m->n);
    return atomic_load_explicit(&m->came[i], memory_order_acquire) != 0;
}

enum tb_range_map_state tb_range_map_state(const struct tb_range_map *m)
{
    uint32_t s = atomic_load(&m->shared->state);

    return s == TB_RANGE_MAP_COMPLETE || s == TB_RANGE_MAP_ABANDONED ? (enum tb_range_map_state)s
                                                                     : TB_RANGE_MAP_COMING;
}

/* false: of another boot. A sandbox without /proc/sys cannot tell: units start a reader behind its writer. */
static bool range_map_is_of_this_boot(const struct tb_range_map *m)
{
    char id[TB_BOOT_ID_MAX];

    return tb_boot_id(id) < 0 || memcmp(m->shared->boot_id, id, sizeof(m->shared->boot_id)) == 0;
}

static int range_map_open(const char *path, bool write, struct tb_range_map **ret)
{
    _cleanup_range_map_ struct tb_range_map *m = NULL;
    _cleanup_close_ int fd = -1;
    int r;

    fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    r = range_map_map(fd, write, &m);
    if (r < 0)
        return r;
    if (!range_map_is_of_this_boot(m))
        return -ESTALE;
    *ret = TAKE_PTR(m);
    return 0;
}

/* -- reader ---------------------------------------------------------------------------------------------- */
int tb_range_map_open(const char *path, struct tb_range_map **ret)
{
    return range_map_open(path, false, ret);
}

/* The ranges that [off, off + len) touches: [*ret_first, return value). */
static uint64_t range_map_span(const struct tb_range_map *m, uint64_t off, uint64_t len, uint64_t *ret_first)
{
    uint64_t end = len > m->id.size - MIN(off, m->id.size) ? m->id.size : off + len;

    *ret_first = MIN(off, m->id.size) / m->id.chunk;
    return off >= end ? *ret_first : (end - 1) / m->id.chunk + 1;
}

bool tb_range_map_has(const struct tb_range_map *m, uint64_t off, uint64_t len, uint64_t *ret_missing)
{
    uint64_t i, end = range_map_span(m, off, len, &i);

    while (i < end && tb_range_map_has_range(m, i))
        i++;
    if (i < end && ret_missing)
        *ret_missing = i * m->id.chunk;
    return i >= end;
}

uint32_t tb_range_map_seen(const struct tb_range_map *m, uint64_t off, uint64_t len)
{
    uint64_t i, end = range_map_span(m, off, len, &i);
    uint32_t sum = 0;

    for (; i < end; i++)
        sum += atomic_load(&m->came[i]);
    return sum;
}

bool tb_range_map_came_again(const struct tb_range_map *m, uint64_t off, uint64_t len, uint32_t seen)
{
    uint64_t first, end = range_map_span(m, off, len, &first);

    return tb_range_map_seen(m, off, len) != (seen ? seen : (uint32_t)(end - first));
}

uint32_t tb_range_map_changes(const struct tb_range_map *m)
{
    return atomic_load(&m->shared->changes);
}

void tb_range_map_wait(const struct tb_range_map *m, uint32_t changes, unsigned timeout_ms)
{
    struct timespec t = {.tv_sec = timeout_ms / 1000, .tv_nsec = timeout_ms % 1000 * 1000000L};

    (void)syscall(SYS_futex, &m->shared->changes, FUTEX_WAIT, changes, &t, NULL, 0);
}

void tb_range_map_wake(const struct tb_range_map *m)
{
    (void)syscall(SYS_futex, &m->shared->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* -- writer ---------------------------------------------------------------------------------------------- */
static void range_map_changed(struct tb_range_map *m)
{
    atomic_fetch_add(&m->shared->changes, 1);
    tb_range_map_wake(m);
}

static void range_map_count_up(struct tb_range_map *m, uint64_t i)
{
    uint8_t old = atomic_load(&m->came[i]);

    while (!atomic_compare_exchange_weak(&m->came[i], &old, (uint8_t)(old == UINT8_MAX ? 1 : old + 1)))
        ;
}

void tb_range_map_mark(struct tb_range_map *m, uint64_t i)
{
    assert(i < m->n);
    range_map_count_up(m, i);
    range_map_changed(m);
}

void tb_range_map_renew(struct tb_range_map *m, uint64_t off, uint64_t len)
{
    uint64_t i, end = range_map_span(m, off, len, &i);

    for (; i < end; i++)
        if (tb_range_map_has_range(m, i))
            range_map_count_up(m, i);
    range_map_changed(m);
}

void tb_range_map_set_state(struct tb_range_map *m, enum tb_range_map_state s)
{
    atomic_store(&m->shared->state, s);
    range_map_changed(m);
}

void tb_range_map_end(const char *path, enum tb_range_map_state s)
{
    _cleanup_range_map_ struct tb_range_map *m = NULL;

    if (range_map_open(path, true, &m) == 0 && tb_range_map_state(m) == TB_RANGE_MAP_COMING)
        tb_range_map_set_state(m, s);
}

static bool range_map_is_of(const struct tb_range_map *m, const struct tb_range_map_id *id)
{
    return strcmp(m->id.instance, id->instance) == 0 && m->id.size == id->size && m->id.chunk == id->chunk &&
           memcmp(m->id.sha256, id->sha256, sizeof(id->sha256)) == 0 &&
           tb_range_map_state(m) != TB_RANGE_MAP_ABANDONED;
}

/* Under its name only when it is whole, with what is there: who finds a range without its count takes it for
 * one that came since. */
static int range_map_write(const char *path, const struct tb_range_map_id *id, const uint8_t *present,
                           uint64_t n)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    _cleanup_free_ uint8_t *came = malloc(n);
    struct range_map_header h = {.size = id->size, .chunk = id->chunk};
    char boot_id[TB_BOOT_ID_MAX];
    int r = tb_boot_id(boot_id);

    if (r == 0 && !came)
        r = -ENOMEM;
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < n; i++)
        came[i] = present[i / 8] >> (i % 8) & 1;
    memcpy(h.magic, RANGE_MAP_MAGIC, sizeof(h.magic));
    memcpy(h.boot_id, boot_id, sizeof(h.boot_id));
    memcpy(h.instance, id->instance, sizeof(h.instance));
    memcpy(h.sha256, id->sha256, sizeof(h.sha256));
    atomic_init(&h.state, TB_RANGE_MAP_COMING);
    r = tb_newfile_open(&f, path, 0640);
    /* its blocks are there too: writing to a hole kills the process when the disk is full */
    if (r == 0)
        r = -posix_fallocate(f.fd, 0, (off_t)(sizeof(h) + n));
    if (r == 0)
        r = tb_pwrite_full(f.fd, &h, sizeof(h), 0);
    if (r == 0)
        r = tb_pwrite_full(f.fd, came, n, sizeof(h));
    return r < 0 ? r : tb_newfile_commit(&f, true);
}

int tb_range_map_create(const char *path, const struct tb_range_map_id *id, const uint8_t *present,
                        struct tb_range_map **ret)
{
    _cleanup_range_map_ struct tb_range_map *m = NULL;
    int r;

    if (id->size == 0 || id->chunk == 0 || strlen(id->instance) != TB_RANGE_MAP_INSTANCE)
        return -EINVAL;
    if (range_map_n(id->size, id->chunk) > TB_RANGE_MAP_MAX)
        return -EFBIG;
    r = range_map_open(path, true, &m);
    if (r < 0 || !range_map_is_of(m, id)) {
        if (r == 0)
            tb_range_map_set_state(m, TB_RANGE_MAP_ABANDONED);
        m = tb_range_map_free(m);
        r = range_map_write(path, id, present, range_map_n(id->size, id->chunk));
        if (r == 0)
            r = range_map_open(path, true, &m);
    }
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < m->n; i++)
        if ((present[i / 8] >> (i % 8) & 1) && !tb_range_map_has_range(m, i))
            range_map_count_up(m, i);
    tb_range_map_set_state(m, TB_RANGE_MAP_COMING);
    *ret = TAKE_PTR(m);
    return 0;
}
