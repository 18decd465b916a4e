/* SPDX-License-Identifier: Apache-2.0 */
#include "common/chain_head.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>

#include "common/mapfile.h"

#define HEAD_MAGIC "TBAUDIT1"
#define HEAD_BYTES TB_CHAIN_HEAD_BYTES
#define POINTS 3

struct head_map {
    char magic[8];
    _Atomic uint32_t committed, pending; /* indices into point[]; what they name is never changed */
    _Atomic uint32_t synced;             /* the same for synced_point[] */
    _Atomic uint64_t turns;              /* how often a point was written */
    _Atomic uint64_t journal_seq, slots, lost_max, unsure;
    struct tb_chain_point point[POINTS], synced_point[2];
};
_Static_assert(sizeof(struct head_map) <= HEAD_BYTES, "the head outgrew its page");

struct tb_chain_head {
    struct head_map *map;
    int fd; /* -1: memory only */
};

static int head_create(const char *path)
{
    char page[HEAD_BYTES] = HEAD_MAGIC;

    return tb_mapfile_create(path, page, sizeof(page));
}

static bool head_valid(const struct head_map *m)
{
    return m->committed < POINTS && m->pending < POINTS && m->synced < 2;
}

/* Its descriptor, or -errno. */
static int head_map(const char *path, bool write, struct head_map **ret)
{
    _cleanup_close_ int fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    void *p;
    int r = fd < 0 ? -errno : tb_mapfile_map(fd, HEAD_MAGIC, HEAD_BYTES, write, &p);

    if (r < 0)
        return r;
    if (!head_valid(p)) {
        munmap(p, HEAD_BYTES);
        return -EBADMSG;
    }
    *ret = p;
    return TAKE_FD(fd);
}

static int head_map_new(const char *path, struct head_map **ret, bool *ret_set_aside)
{
    int r = head_create(path);

    if (r >= 0)
        r = head_map(path, true, ret);
    if (r != -EBADMSG)
        return r;
    *ret_set_aside = true;
    r = tb_mapfile_set_aside(path);
    if (r >= 0)
        r = head_create(path);
    return r < 0 ? r : head_map(path, true, ret);
}

int tb_chain_head_open(const char *path, struct tb_chain_head **ret, bool *ret_set_aside)
{
    struct tb_chain_head *h = calloc(1, sizeof(*h));
    int r = h ? 0 : -ENOMEM;

    *ret_set_aside = false;
    if (r == 0 && path) {
        r = head_map_new(path, &h->map, ret_set_aside);
        h->fd = r;
    } else if (r == 0) {
        h->fd = -1;
        h->map = calloc(1, HEAD_BYTES);
        r = h->map ? 0 : -ENOMEM;
    }
    if (r < 0) {
        free(h);
        return r;
    }
    *ret = h;
    return 0;
}

void tb_chain_head_sync(struct tb_chain_head *h)
{
    if (h->fd >= 0)
        (void)msync(h->map, HEAD_BYTES, MS_SYNC);
}

bool tb_chain_head_in_place(const struct tb_chain_head *h, const char *path)
{
    return h->fd < 0 || tb_mapfile_has_its_name(path, h->fd);
}

int tb_chain_head_keep(struct tb_chain_head *h, const char *path)
{
    return h->fd < 0 ? 0 : tb_mapfile_keep(path, &h->fd, h->map, HEAD_BYTES, false, false);
}

void tb_chain_head_close(struct tb_chain_head *h)
{
    if (!h)
        return;
    tb_chain_head_sync(h);
    if (h->fd >= 0)
        munmap(h->map, HEAD_BYTES);
    else
        free(h->map);
    tb_close(h->fd);
    free(h);
}

void tb_chain_head_get(const struct tb_chain_head *h, struct tb_chain_state *ret)
{
    const struct head_map *m = h->map;

    *ret = (struct tb_chain_state){
        .committed = m->point[m->committed],
        .pending = m->point[m->pending],
        .synced = m->synced_point[m->synced],
        .journal_seq = m->journal_seq,
        .slots = m->slots,
        .lost_max = m->lost_max,
        .unsure = m->unsure,
    };
}

void tb_chain_head_get_stop(const struct tb_chain_head *h, uint64_t *ret_lost_max, uint64_t *ret_unsure)
{
    *ret_lost_max = h->map->lost_max;
    *ret_unsure = h->map->unsure;
}

void tb_chain_head_begin(struct tb_chain_head *h, const struct tb_chain_point *last)
{
    struct head_map *m = h->map;
    uint32_t i = 0;

    while (i == m->committed || i == m->pending)
        i++;
    m->turns++;
    m->point[i] = *last;
    m->pending = i;
}

void tb_chain_head_commit(struct tb_chain_head *h)
{
    h->map->committed = h->map->pending;
}

void tb_chain_head_set_synced(struct tb_chain_head *h, const struct tb_chain_point *p)
{
    uint32_t i = !h->map->synced;

    h->map->synced_point[i] = *p;
    h->map->synced = i;
}

void tb_chain_head_set_journal(struct tb_chain_head *h, uint64_t seq)
{
    h->map->journal_seq = seq;
}

void tb_chain_head_set_slots(struct tb_chain_head *h, uint64_t slots)
{
    atomic_store_explicit(&h->map->slots, slots, memory_order_relaxed);
}

void tb_chain_head_set_stop(struct tb_chain_head *h, uint64_t lost_max, uint64_t unsure)
{
    h->map->lost_max = lost_max;
    h->map->unsure = unsure;
}

int tb_chain_head_read(const char *path, struct tb_chain_point *ret)
{
    struct head_map *m;
    uint64_t turns;
    int r = head_map(path, false, &m);

    if (r < 0)
        return r;
    do { /* its writer may be at work */
        turns = m->turns;
        *ret = m->point[m->committed % POINTS];
        atomic_thread_fence(memory_order_acquire);
    } while (m->turns != turns);
    munmap(m, HEAD_BYTES);
    tb_close(r);
    return 0;
}

int tb_chain_head_copy(const char *path, void *ret)
{
    struct head_map *m;
    uint64_t turns;
    int r = head_map(path, false, &m);

    if (r < 0)
        return r;
    do { /* the numbers come before the points: what they name is written, and stays for a turn */
        turns = m->turns;
        memcpy(ret, m, sizeof(*m));
        atomic_thread_fence(memory_order_acquire);
    } while (m->turns != turns);
    memset((char *)ret + sizeof(*m), 0, HEAD_BYTES - sizeof(*m));
    munmap(m, HEAD_BYTES);
    tb_close(r);
    return 0;
}

uint64_t tb_chain_head_seq(const void *copy)
{
    struct head_map m;

    memcpy(&m, copy, sizeof(m));
    return memcmp(m.magic, HEAD_MAGIC, sizeof(m.magic)) == 0 && head_valid(&m) ? m.point[m.committed].seq : 0;
}
