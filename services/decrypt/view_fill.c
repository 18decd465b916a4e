/* SPDX-License-Identifier: Apache-2.0 */
/* The fillers: blocks are decrypted into the cache before somebody asks for them, those that follow what is
 * being read first; what nobody reads is verified when nothing else is to be done. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/macros.h"
#include "common/units.h"
#include "decrypt/view.h"

#define FILL_TICK_MS 100
#define FILL_AHEAD 2 /* blocks after the one that is read */
/* Nobody reads now, and the first has had time to come. */
#define FILL_IDLE_US (500 * 1000ULL)
#define FILL_START_US (10 * TB_USEC_PER_SEC)

void view_fill_after(struct tb_view *v, size_t file, uint64_t block)
{
    const struct tb_blocks *b = tb_cache_blocks(v->cache);
    uint64_t end = file + 1 < tb_blocks_files(b) ? b->first[file + 1] : b->n;

    for (uint64_t i = block + 1; i <= block + FILL_AHEAD && i < end; i++) {
        bool known = tb_cache_holds(v->cache, i);

        (void)pthread_mutex_lock(&v->lock);
        for (unsigned k = v->ahead_first; !known && k != v->ahead_end; k++)
            known = v->ahead[k % VIEW_AHEAD_MAX] == i;
        if (!known && v->ahead_end - v->ahead_first < VIEW_AHEAD_MAX) {
            v->ahead[v->ahead_end++ % VIEW_AHEAD_MAX] = i;
            (void)pthread_cond_signal(&v->work);
        }
        (void)pthread_mutex_unlock(&v->lock);
    }
}

static bool fill_idle(struct tb_view *v)
{
    uint64_t now = tb_now_monotonic_us(), read_us = atomic_load(&v->read_us);

    return now >= (read_us > 0 ? read_us + FILL_IDLE_US : v->start_us + FILL_START_US);
}

static bool fill_has_come(struct tb_view *v, uint64_t i)
{
    struct tb_cache_block x;

    tb_blocks_get(tb_cache_blocks(v->cache), i, &x);
    return tb_ciphertext_has(v->ciphertext, x.ct_from, x.ct_to);
}

/* The next block for this thread, or none: then it waits a while. */
static bool fill_take(struct tb_view *v, uint64_t *ret)
{
    const struct tb_blocks *b = tb_cache_blocks(v->cache);
    struct timespec until;
    bool taken = false;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += FILL_TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    (void)pthread_mutex_lock(&v->lock);
    while (!taken && v->ahead_first != v->ahead_end) {
        *ret = v->ahead[v->ahead_first++ % VIEW_AHEAD_MAX];
        taken = fill_has_come(v, *ret); /* else who reads it waits for it */
    }
    while (v->next_fill < b->n && tb_cache_verified(v->cache, v->next_fill))
        v->next_fill++;
    if (!taken && v->next_fill < b->n && fill_idle(v) && fill_has_come(v, v->next_fill)) {
        *ret = v->next_fill++;
        taken = true;
    }
    if (!taken && !atomic_load(&v->revoked) && !atomic_load(&v->ended))
        (void)pthread_cond_timedwait(&v->work, &v->lock, &until);
    (void)pthread_mutex_unlock(&v->lock);
    return taken;
}

void *view_filler(void *arg)
{
    struct view_thread *t = arg;
    struct tb_view *v = t->v;
    uint64_t block;

    while (!atomic_load(&v->revoked) && !atomic_load(&v->ended)) {
        const struct tb_slot *s;
        struct tbenc_error e = {0};
        int r;

        if (!fill_take(v, &block))
            continue;
        r = tb_cache_pin(v->cache, t->number, block, &s, &e);
        if (r == 0) {
            tb_cache_unpin(v->cache, s);
        } else if (r == -EAGAIN) { /* it is fetched again */
            (void)pthread_mutex_lock(&v->lock);
            v->next_fill = MIN(v->next_fill, block);
            (void)pthread_mutex_unlock(&v->lock);
        } else if (r != -ESHUTDOWN) {
            view_fail(v, r, &e);
        }
    }
    return NULL;
}
