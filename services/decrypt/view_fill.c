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

static bool fill_is_known(const struct tb_view *v, const struct view_layer *l, uint64_t i)
{
    for (unsigned k = v->ahead_first; k != v->ahead_end; k++)
        if (v->ahead[k % VIEW_AHEAD_MAX].layer == l && v->ahead[k % VIEW_AHEAD_MAX].index == i)
            return true;
    return false;
}

void view_fill_after(struct tb_view *v, const struct view_place *place, uint64_t block)
{
    struct view_layer *l = place->layer;
    const struct tb_blocks *b = tb_cache_blocks(l->cache);
    uint64_t end = place->file + 1 < tb_blocks_files(b) ? b->first[place->file + 1] : b->n;

    for (uint64_t i = block + 1; i <= block + FILL_AHEAD && i < end; i++) {
        if (tb_cache_holds(l->cache, i))
            continue;
        (void)pthread_mutex_lock(&v->lock);
        if (v->ahead_end - v->ahead_first < VIEW_AHEAD_MAX && !fill_is_known(v, l, i)) {
            v->ahead[v->ahead_end++ % VIEW_AHEAD_MAX] = (struct view_block){l, i};
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

static bool fill_has_come(const struct view_block *b)
{
    struct tb_cache_block x;

    tb_blocks_get(tb_cache_blocks(b->layer->cache), b->index, &x);
    return tb_ciphertext_has(&b->layer->ciphertext, x.ct_from, x.ct_to);
}

/* The first block of a ciphertext that nobody has verified yet. */
static bool fill_take_unverified(struct view_layer *l, struct view_block *ret)
{
    uint64_t n = tb_cache_blocks(l->cache)->n;

    while (l->next_fill < n && tb_cache_verified(l->cache, l->next_fill))
        l->next_fill++;
    *ret = (struct view_block){l, l->next_fill};
    if (l->next_fill == n || !fill_has_come(ret))
        return false;
    l->next_fill++;
    return true;
}

/* The next block for this thread, or none: then it waits a while. */
static bool fill_take(struct tb_view *v, struct view_block *ret)
{
    struct timespec until;
    bool taken = false;

    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += FILL_TICK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    (void)pthread_mutex_lock(&v->lock);
    while (!taken && v->ahead_first != v->ahead_end) {
        *ret = v->ahead[v->ahead_first++ % VIEW_AHEAD_MAX];
        taken = fill_has_come(ret); /* else who reads it waits for it */
    }
    for (unsigned i = 0; !taken && i < v->n_layers && fill_idle(v); i++)
        taken = fill_take_unverified(&v->layers[i], ret);
    if (!taken && !atomic_load(&v->revoked) && !atomic_load(&v->ended))
        (void)pthread_cond_timedwait(&v->work, &v->lock, &until);
    (void)pthread_mutex_unlock(&v->lock);
    return taken;
}

void *view_filler(void *arg)
{
    struct view_thread *t = arg;
    struct tb_view *v = t->v;
    struct view_block block;

    while (!atomic_load(&v->revoked) && !atomic_load(&v->ended)) {
        const struct tb_slot *s;
        struct tbenc_error e = {0};
        int r;

        if (!fill_take(v, &block))
            continue;
        r = tb_cache_pin(block.layer->cache, t->number, block.index, &s, &e);
        if (r == 0) {
            tb_cache_unpin(block.layer->cache, s);
        } else if (r == -EAGAIN) { /* it is fetched again */
            (void)pthread_mutex_lock(&v->lock);
            block.layer->next_fill = MIN(block.layer->next_fill, block.index);
            (void)pthread_mutex_unlock(&v->lock);
        } else if (r != -ESHUTDOWN) {
            view_fail(v, block.layer, r, &e);
        }
    }
    return NULL;
}
