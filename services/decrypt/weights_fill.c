/* SPDX-License-Identifier: Apache-2.0 */
/* The fillers: blocks are decrypted into the cache before somebody asks for them, those that follow what is
 * being read first; what nobody reads is verified when nothing else is to be done. And what is void is
 * noted. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/cond.h"
#include "common/macros.h"
#include "common/units.h"
#include "decrypt/weights.h"

#define FILL_TICK_MS 100
/* Nobody reads now, and the first has had time to come. */
#define FILL_IDLE_US (500 * 1000ULL)
#define FILL_START_US (10 * TB_USEC_PER_SEC)

void tb_weights_fail(struct tb_weights *w, const struct weights_layer *at_fault, int error,
                     const struct tbenc_error *e)
{
    (void)pthread_mutex_lock(&w->lock);
    if (w->error == 0) {
        w->error = error;
        w->at_fault = at_fault;
        w->why = *e;
    }
    (void)pthread_mutex_unlock(&w->lock);
    (void)eventfd_write(w->event_fd, 1);
}

static bool fill_is_known(struct tb_weights *w, const struct weights_block *b)
{
    for (unsigned k = w->ahead_first; k != w->ahead_end; k++) {
        struct weights_block *known = &w->ahead[k % WEIGHTS_AHEAD_MAX];

        if (known->layer == b->layer && known->index == b->index) {
            known->then = b->then;
            return true;
        }
    }
    return false;
}

void weights_fill_after(struct tb_weights *w, const struct weights_place *place, uint64_t block,
                        unsigned ahead)
{
    struct weights_layer *l = place->layer;
    const struct tb_blocks *b = tb_cache_blocks(l->cache);
    uint64_t end = place->file + 1 < tb_blocks_files(b) ? b->first[place->file + 1] : b->n;

    for (uint64_t i = block + 1; i <= block + ahead && i < end; i++) {
        struct weights_block next = {.layer = l, .index = i};

        if (tb_cache_holds(l->cache, i, &next.then))
            continue;
        (void)pthread_mutex_lock(&w->lock);
        if (w->ahead_end - w->ahead_first < WEIGHTS_AHEAD_MAX && !fill_is_known(w, &next)) {
            w->ahead[w->ahead_end++ % WEIGHTS_AHEAD_MAX] = next;
            (void)pthread_cond_signal(&w->work);
        }
        (void)pthread_mutex_unlock(&w->lock);
    }
}

static bool fill_idle(struct tb_weights *w)
{
    uint64_t now = tb_now_monotonic_us(), read_us = atomic_load(&w->read_us);

    return !w->reads_all && now >= (read_us > 0 ? read_us + FILL_IDLE_US : w->start_us + FILL_START_US);
}

static bool fill_has_come(const struct weights_block *b)
{
    struct tb_cache_block x;

    tb_blocks_get(tb_cache_blocks(b->layer->cache), b->index, &x);
    return tb_ciphertext_has(&b->layer->ciphertext, x.ct_from, x.ct_to);
}

/* The first block of a ciphertext that nobody has verified yet. */
static bool fill_take_unverified(struct weights_layer *l, struct weights_block *ret)
{
    uint64_t n = tb_cache_blocks(l->cache)->n;

    while (l->next_fill < n && tb_cache_verified(l->cache, l->next_fill))
        l->next_fill++;
    *ret = (struct weights_block){.layer = l, .index = l->next_fill};
    if (l->next_fill == n || !fill_has_come(ret))
        return false;
    l->next_fill++;
    return true;
}

/* The next block for this thread, or none: then it waits a while. ahead: somebody will read it soon. */
static bool fill_take(struct tb_weights *w, struct weights_block *ret, bool *ret_ahead)
{
    struct timespec until = tb_cond_until(FILL_TICK_MS);
    bool taken = false;

    (void)pthread_mutex_lock(&w->lock);
    while (!taken && w->ahead_first != w->ahead_end) {
        *ret = w->ahead[w->ahead_first++ % WEIGHTS_AHEAD_MAX];
        taken = fill_has_come(ret); /* else who reads it waits for it */
    }
    *ret_ahead = taken;
    for (unsigned i = 0; !taken && i < w->n_layers && fill_idle(w); i++)
        taken = fill_take_unverified(&w->layers[i], ret);
    if (!taken && !atomic_load(&w->stopped))
        (void)pthread_cond_timedwait(&w->work, &w->lock, &until);
    (void)pthread_mutex_unlock(&w->lock);
    return taken;
}

static int fill_block(unsigned thread, const struct weights_block *b, bool ahead, struct tbenc_error *e)
{
    const struct tb_slot *s;
    int r;

    if (ahead)
        return tb_cache_fill(b->layer->cache, thread, b->index, b->then, e);
    r = tb_cache_pin(b->layer->cache, thread, b->index, &s, e);
    if (r == 0)
        tb_cache_unpin_verified(b->layer->cache, s);
    return r;
}

void *weights_filler(void *arg)
{
    struct weights_thread *t = arg;
    struct tb_weights *w = t->w;
    struct weights_block block;

    while (!atomic_load(&w->stopped)) {
        struct tbenc_error e = {0};
        bool ahead;
        int r;

        if (!fill_take(w, &block, &ahead))
            continue;
        r = fill_block(t->number, &block, ahead, &e);
        if (r == -EAGAIN) { /* it is fetched again */
            (void)pthread_mutex_lock(&w->lock);
            block.layer->next_fill = MIN(block.layer->next_fill, block.index);
            (void)pthread_mutex_unlock(&w->lock);
        } else if (r < 0 && r != -ESHUTDOWN) {
            tb_weights_fail(w, block.layer, r, &e);
        }
    }
    return NULL;
}
