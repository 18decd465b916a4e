/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/weights.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/cond.h"
#include "common/macros.h"
#include "common/units.h"
#include "tbenc/engine.h"

#define WEIGHTS_REVOKE_MS 200
#define WEIGHTS_VERIFY_MS 200

/* -- what became of it ----------------------------------------------------------------------------------- */
int tb_weights_error(struct tb_weights *w, const struct weights_layer **at_fault, struct tbenc_error *e)
{
    int r;

    (void)pthread_mutex_lock(&w->lock);
    r = w->error;
    *at_fault = w->at_fault;
    *e = w->why;
    (void)pthread_mutex_unlock(&w->lock);
    return r;
}

void tb_weights_state(struct tb_weights *w, struct tb_cache_state *ret)
{
    *ret = (struct tb_cache_state){.complete = true};
    for (unsigned i = 0; i < w->n_layers; i++) {
        struct tb_cache_state s = {0};

        if (w->layers[i].cache)
            tb_cache_state(w->layers[i].cache, &s);
        ret->verified_bytes += s.verified_bytes;
        ret->blocks_decrypted += s.blocks_decrypted;
        ret->blocks_found += s.blocks_found;
        ret->read_bytes += s.read_bytes;
        ret->served_bytes += s.served_bytes;
        ret->cached_bytes += s.cached_bytes;
        ret->room_bytes += s.room_bytes;
        ret->complete &= s.complete;
        ret->foreign |= s.foreign;
        if (s.foreign)
            tb_weights_fail(w, &w->layers[i], -EBADMSG,
                            &(struct tbenc_error){.message =
                                                      "tags_sha256 is not what the manifest says: damaged, "
                                                      "or another manifest's file"});
    }
}

/* -- files ----------------------------------------------------------------------------------------------- */
size_t tb_weights_files(const struct tb_weights *w)
{
    return w->files->files ? w->files->n_files : 1;
}

uint64_t tb_weights_file_bytes(const struct tb_weights *w, size_t file)
{
    return w->files->files ? w->files->files[file].bytes : w->files->plaintext_bytes;
}

uint64_t tb_weights_block_end(const struct tb_weights *w, size_t file, uint64_t off)
{
    const struct weights_place *at = &w->places[file];
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    struct tb_cache_block x;

    tb_blocks_get(b, tb_blocks_at(b, at->file, off), &x);
    return x.first.file_off + x.len;
}

unsigned tb_weights_slots(const struct tb_weights *w)
{
    return tb_cache_slots(w->layers[0].manifest, w->n_readers + w->n_fillers);
}

const struct tb_ciphertext *tb_weights_coming(const struct tb_weights *w)
{
    for (unsigned i = 0; i < w->n_layers; i++)
        if (w->layers[i].ciphertext.has)
            return &w->layers[i].ciphertext;
    return NULL;
}

/* -- read ------------------------------------------------------------------------------------------------ */
static void weights_let_go(const struct weights_place *at, const struct weights_piece *p, int n)
{
    while (n > 0)
        tb_cache_unpin(at->layer->cache, p[--n].slot);
}

static int weights_take(const struct weights_place *at, unsigned thread, uint64_t off, uint64_t end,
                        struct weights_piece p[static 2], struct tbenc_error *e)
{
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    int n = 0;

    for (; off < end; n++) {
        int r = tb_cache_pin(at->layer->cache, thread, tb_blocks_at(b, at->file, off), &p[n].slot, e);
        uint64_t start;

        if (r < 0) {
            weights_let_go(at, p, n);
            return r;
        }
        start = p[n].slot->block.first.file_off;
        p[n].skip = (size_t)(off - start);
        p[n].n = (size_t)MIN(end - off, p[n].slot->block.len - p[n].skip);
        off += p[n].n;
    }
    return n;
}

static void weights_want(const struct weights_place *at, uint64_t off, uint64_t end)
{
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    const struct tb_ciphertext *c = &at->layer->ciphertext;
    struct tb_cache_block x;

    for (uint64_t i = tb_blocks_at(b, at->file, off); c->want && i <= tb_blocks_at(b, at->file, end - 1);
         i++) {
        tb_blocks_get(b, i, &x);
        if (!tb_ciphertext_has(c, x.ct_from, x.ct_to))
            return c->want(c->ctx, x.ct_from, x.ct_to);
    }
}

int tb_weights_pin(struct tb_weights *w, unsigned reader, size_t file, uint64_t off, uint64_t end,
                   struct weights_piece p[static 2])
{
    const struct weights_place *at = &w->places[file];
    struct tbenc_error e = {0};
    int n;

    assert(reader < w->n_readers && off < end && end - off <= WEIGHTS_READ_MAX);
    atomic_store(&w->read_us, tb_now_monotonic_us());
    (void)atomic_fetch_add(&w->n_reading, 1);
    n = weights_take(at, reader, off, end, p, &e);
    if (n < 0)
        (void)atomic_fetch_sub(&w->n_reading, 1);
    if (n == -EAGAIN)
        weights_want(at, off, end);
    else if (n < 0 && n != -ESHUTDOWN)
        tb_weights_fail(w, at->layer, n, &e);
    return n;
}

void tb_weights_unpin(struct tb_weights *w, size_t file, uint64_t end, unsigned ahead,
                      const struct weights_piece *p, int n, struct weights_served served)
{
    const struct weights_place *at = &w->places[file];

    for (int i = 0; i < n && served.bytes > 0; i++) {
        size_t part = MIN(served.bytes, p[i].n);

        tb_cache_served(at->layer->cache, p[i].slot, part, served.kept);
        served.bytes -= part;
    }
    if (atomic_fetch_sub(&w->n_reading, 1) < w->n_processors)
        weights_fill_after(w, at, tb_blocks_at(tb_cache_blocks(at->layer->cache), at->file, end - 1), ahead);
    weights_let_go(at, p, n);
}

bool tb_weights_came(struct tb_weights *w, size_t file, uint64_t off, uint64_t end)
{
    const struct weights_place *at = &w->places[file];
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    struct tb_cache_block first, last;

    atomic_store(&w->read_us, tb_now_monotonic_us()); /* who waits reads */
    tb_blocks_get(b, tb_blocks_at(b, at->file, off), &first);
    tb_blocks_get(b, tb_blocks_at(b, at->file, end - 1), &last);
    return tb_ciphertext_has(&at->layer->ciphertext, first.ct_from, last.ct_to);
}

/* -- made, started, ended -------------------------------------------------------------------------------- */
unsigned tb_weights_threads(void)
{
    return MIN(MAX(tbenc_threads(0), 2U), (unsigned)WEIGHTS_THREADS_MAX);
}

static int weights_make_caches(struct tb_weights *w, const uint8_t *key, struct tbenc_error *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < w->n_layers; i++) {
        struct weights_layer *l = &w->layers[i];
        struct tb_cache_params p = {.manifest = l->manifest,
                                    .key = key,
                                    .ciphertext = &l->ciphertext,
                                    .threads = w->n_readers + w->n_fillers};

        p.slots = w->n_slots ? w->n_slots : tb_cache_slots(l->manifest, p.threads);
        r = tb_cache_new(&p, &l->cache, e);
    }
    return r;
}

/* The files are dealt to the ciphertexts by number, in place of descriptors. */
static int weights_deal(struct tb_weights *w)
{
    const struct tbenc_manifest *own = w->layers[0].manifest, *base = w->layers[1].manifest;
    size_t n = tb_weights_files(w), n_own = own->n_files;
    _cleanup_free_ int *numbers = calloc(n, sizeof(*numbers)), *dealt = NULL;
    int r;

    w->places = calloc(n, sizeof(*w->places));
    if (!w->places || !numbers)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        numbers[i] = (int)i;
        w->places[i] = (struct weights_place){&w->layers[0], i};
    }
    if (w->n_layers == 1)
        return 0;
    dealt = calloc(n_own + base->n_files + 1, sizeof(*dealt));
    r = dealt ? tbenc_tree_deal(own, base, w->files, numbers, dealt, dealt + n_own) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < n_own + base->n_files; i++)
        if (dealt[i] >= 0)
            w->places[dealt[i]] = i < n_own ? (struct weights_place){&w->layers[0], i}
                                            : (struct weights_place){&w->layers[1], i - n_own};
    return r;
}

int tb_weights_init(struct tb_weights *w, const uint8_t *key, unsigned n_readers, unsigned n_fillers,
                    struct tbenc_error *e)
{
    int r;

    w->n_fillers = n_fillers;
    w->n_readers = n_readers;
    w->n_processors = tbenc_threads(0);
    (void)pthread_mutex_init(&w->lock, NULL);
    tb_cond_init(&w->work);
    r = weights_make_caches(w, key, e);
    if (r < 0)
        return r;
    r = weights_deal(w);
    return r < 0 ? tbenc_fail(e, r, "cannot deal the files: %s", strerror(-r)) : 0;
}

/* What proves bad is waited for until it was fetched once more, or nobody did: else it would be served before
 * that is known, and the runtime die of it instead of not being started. */
static int layer_verify_block(struct weights_layer *l, uint64_t block, bool (*stop)(void *ctx), void *ctx,
                              struct tbenc_error *e)
{
    const struct tb_ciphertext *c = &l->ciphertext;
    const struct tb_slot *s;
    struct tb_cache_block x;

    tb_blocks_get(tb_cache_blocks(l->cache), block, &x);
    if (!tb_ciphertext_has(c, x.ct_from, x.ct_to))
        return 0;
    while (!stop(ctx)) {
        int r = tb_cache_pin(l->cache, 0, block, &s, e);

        if (r == 0)
            tb_cache_unpin_verified(l->cache, s);
        if (r != -EAGAIN)
            return r;
        while (!tb_ciphertext_has(c, x.ct_from, x.ct_to) && !stop(ctx))
            c->wait(c->ctx, WEIGHTS_VERIFY_MS);
    }
    return -ECANCELED;
}

static int layer_verify(struct weights_layer *l, bool all, bool (*stop)(void *ctx), void *ctx,
                        struct tbenc_error *e)
{
    uint64_t n = tb_cache_blocks(l->cache)->n;
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < (all ? n : MIN(n, 1U)); i++)
        r = layer_verify_block(l, i, stop, ctx, e);
    return r;
}

int tb_weights_verify(struct tb_weights *w, bool all, bool (*stop)(void *ctx), void *ctx,
                      struct tbenc_error *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < w->n_layers; i++) {
        r = layer_verify(&w->layers[i], all, stop, ctx, e);
        if (r < 0)
            w->at_fault = &w->layers[i];
    }
    return r;
}

int tb_weights_start(struct tb_weights *w)
{
    int r = 0;

    w->start_us = tb_now_monotonic_us();
    for (unsigned i = 0; r == 0 && i < w->n_fillers; i++) {
        w->fillers[i] = (struct weights_thread){.w = w, .number = w->n_readers + i};
        r = pthread_create(&w->fillers[i].id, NULL, weights_filler, &w->fillers[i]);
        w->n_started += r == 0;
    }
    return -r;
}

void tb_weights_stop(struct tb_weights *w)
{
    (void)pthread_mutex_lock(&w->lock);
    atomic_store(&w->stopped, true);
    (void)pthread_cond_broadcast(&w->work);
    (void)pthread_mutex_unlock(&w->lock);
}

void tb_weights_join(struct tb_weights *w)
{
    for (; w->n_started > 0; w->n_started--)
        (void)pthread_join(w->fillers[w->n_started - 1].id, NULL);
}

void tb_weights_revoke(struct tb_weights *w)
{
    tb_weights_stop(w);
    for (unsigned i = 0; i < w->n_layers; i++)
        if (w->layers[i].cache)
            (void)tb_cache_revoke(w->layers[i].cache, WEIGHTS_REVOKE_MS);
}
