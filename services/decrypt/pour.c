/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/pour.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/io.h"
#include "common/macros.h"
#include "tbenc/stream.h"

#define POUR_LENT_MAX 8   /* blocks whose pages a pipe may hold */
#define POUR_FILL_AHEAD 4 /* blocks that others decrypt for a FIFO */

struct pour_thread {
    struct tb_pour *p;
    unsigned number;
    pthread_t id;
};

struct pour_lent { /* a ring */
    const struct tb_slot *slot[POUR_LENT_MAX];
    struct weights_layer *layer[POUR_LENT_MAX];
    uint64_t until[POUR_LENT_MAX]; /* so much was written, and the pipe has none of its pages any more */
    unsigned first, end;
};

int tb_pour_init(struct tb_pour *p, const uint8_t *key, struct tbenc_error *e)
{
    unsigned readers = p->fifo ? 1 : tb_weights_threads(), fillers = p->fifo ? tb_weights_threads() : 0;

    p->weights->reads_all = true;
    p->weights->n_slots = 2 * (readers + fillers) + 1 + (p->fifo ? POUR_LENT_MAX : 0);
    return tb_weights_init(p->weights, key, readers, fillers, e);
}

/* The first one counts, and the others end. */
static int pour_fail(struct tb_pour *p, const struct weights_layer *at_fault, int r,
                     const struct tbenc_error *e)
{
    (void)pthread_mutex_lock(&p->lock);
    if (p->error == 0) {
        p->error = r;
        p->why = *e;
        p->at_fault = at_fault;
    }
    (void)pthread_mutex_unlock(&p->lock);
    return r;
}

/* What was written counts. false: the work has ended. */
static bool pour_goes_on(struct tb_pour *p, uint64_t written)
{
    struct tbenc_error e = {.message = "stopped"};
    uint64_t done;
    int error;

    (void)pthread_mutex_lock(&p->lock);
    done = p->done += written;
    error = p->error;
    (void)pthread_mutex_unlock(&p->lock);
    if (error == 0 && p->progress(p->ctx, done))
        error = pour_fail(p, NULL, -ECANCELED, &e);
    return error == 0;
}

/* A block, decrypted and verified, as soon as it has come. */
static int pour_pin(struct tb_pour *p, unsigned thread, struct weights_layer *l, uint64_t block,
                    const struct tb_slot **ret)
{
    struct tbenc_error e = {0};
    struct tb_cache_block b;
    int r;

    tb_blocks_get(tb_cache_blocks(l->cache), block, &b);
    while (pour_goes_on(p, 0)) {
        r = tb_cache_pin(l->cache, thread, block, ret, &e);
        if (r == -EAGAIN)
            r = l->ciphertext.await(l->ciphertext.ctx, b.ct_from, b.ct_to) == -ESTALE ? -ESTALE : -EAGAIN;
        if (r != -EAGAIN)
            return r == 0 ? 0 : pour_fail(p, l, r, &e);
    }
    return -ECANCELED;
}

static int pour_write_failed(struct tb_pour *p, const struct tb_slot *s, int r)
{
    struct tbenc_error e = {0};

    (void)tbenc_fail_chunk(&e, r, s->block.first.index, "cannot write the plaintext: %s",
                           r == -EPIPE ? "the reader went away" : strerror(-r));
    return pour_fail(p, NULL, r, &e);
}

/* -- into files ------------------------------------------------------------------------------------------ */
/* The base first: it is nearly all of an overlay. */
static bool pour_take(struct tb_pour *p, struct weights_block *ret)
{
    bool taken;

    (void)pthread_mutex_lock(&p->lock);
    while (p->layer > 0 && p->next == tb_cache_blocks(p->weights->layers[p->layer].cache)->n) {
        p->layer--;
        p->next = 0;
    }
    *ret = (struct weights_block){.layer = &p->weights->layers[p->layer], .index = p->next};
    taken = p->error == 0 && p->next < tb_cache_blocks(ret->layer->cache)->n;
    p->next += taken;
    (void)pthread_mutex_unlock(&p->lock);
    return taken;
}

static int pour_block(struct tb_pour *p, unsigned thread, const struct weights_block *at)
{
    const struct tb_slot *s;
    int r = pour_pin(p, thread, at->layer, at->index, &s), fd;

    if (r < 0)
        return r;
    fd = p->to[at->layer - p->weights->layers][s->block.first.file];
    if (fd >= 0)
        r = tb_pwrite_full(fd, s->pt, s->block.len, s->block.first.file_off);
    if (r < 0)
        (void)pour_write_failed(p, s, r);
    else if (!pour_goes_on(p, fd >= 0 ? s->block.len : 0))
        r = -ECANCELED;
    tb_cache_unpin_verified(at->layer->cache, s);
    return r;
}

static void *pour_thread(void *arg)
{
    const struct pour_thread *t = arg;
    struct weights_block at;

    while (pour_take(t->p, &at) && pour_block(t->p, t->number, &at) == 0)
        ;
    return NULL;
}

static int pour_size_files(struct tb_pour *p)
{
    struct tbenc_error e = {0};

    for (size_t i = 0; i < tb_weights_files(p->weights); i++)
        if (ftruncate(p->fds[i], (off_t)tb_weights_file_bytes(p->weights, i)) < 0) {
            int r = -errno;

            (void)tbenc_fail(&e, r, "cannot write %.300s: %s",
                             p->weights->files->files ? p->weights->files->files[i].path : "the plaintext",
                             strerror(-r));
            return pour_fail(p, NULL, r, &e);
        }
    return 0;
}

static void pour_files(struct tb_pour *p)
{
    struct pour_thread t[WEIGHTS_THREADS_MAX] = {{.p = p}};
    unsigned n = 1;

    for (unsigned i = 1; i < p->weights->n_readers; i++)
        t[i] = (struct pour_thread){.p = p, .number = i};
    while (n < p->weights->n_readers && pthread_create(&t[n].id, NULL, pour_thread, &t[n]) == 0)
        n++;
    (void)pour_thread(&t[0]);
    while (n > 1)
        (void)pthread_join(t[--n].id, NULL);
}

/* -- into a FIFO ----------------------------------------------------------------------------------------- */
/* Those that the pipe cannot hold any more. */
static void lent_return(struct pour_lent *l, uint64_t done)
{
    for (; l->first != l->end && l->until[l->first % POUR_LENT_MAX] <= done; l->first++)
        tb_cache_unpin(l->layer[l->first % POUR_LENT_MAX]->cache, l->slot[l->first % POUR_LENT_MAX]);
}

/* Pages are lent that stay untouched until so much more was written that not even a pipe behind this one can
 * still hold them; the last ones never: they are wiped soon. */
static int pour_to_pipe(struct tb_pour *p, struct tbenc_sink *sink, struct pour_lent *l,
                        struct weights_layer *layer, const struct tb_slot *s)
{
    uint64_t end = p->done + s->block.len, until = end + 2 * sink->pipe_bytes;
    uint64_t all = p->weights->files->plaintext_bytes;
    bool lend = sink->pipe && l->end - l->first < POUR_LENT_MAX && until <= all;
    int r = tbenc_sink_write(sink, s->pt, s->block.len, lend);

    if (r < 0)
        (void)pour_write_failed(p, s, r);
    else if (!pour_goes_on(p, s->block.len))
        r = -ECANCELED;
    if (r < 0 || !lend) {
        tb_cache_unpin(layer->cache, s);
        return r;
    }
    l->slot[l->end % POUR_LENT_MAX] = s;
    l->layer[l->end % POUR_LENT_MAX] = layer;
    l->until[l->end++ % POUR_LENT_MAX] = until;
    return 0;
}

static int pour_file_to_pipe(struct tb_pour *p, struct tbenc_sink *sink, struct pour_lent *l, size_t file)
{
    const struct weights_place *at = &p->weights->places[file];
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    uint64_t bytes = tb_weights_file_bytes(p->weights, file);
    int r = 0;

    for (uint64_t off = 0, block; r == 0 && off < bytes; off = tb_weights_block_end(p->weights, file, off)) {
        const struct tb_slot *s;

        block = tb_blocks_at(b, at->file, off);
        weights_fill_after(p->weights, at, block, POUR_FILL_AHEAD);
        r = pour_pin(p, 0, at->layer, block, &s);
        if (r == 0)
            r = pour_to_pipe(p, sink, l, at->layer, s);
        lent_return(l, p->done);
    }
    return r;
}

/* In the order of the files, of whichever ciphertext they are. What is in none is verified too. */
static void pour_fifo(struct tb_pour *p)
{
    struct pour_lent lent = {0};
    struct tbenc_error e = {0};
    struct weights_block at;
    struct tbenc_sink sink;
    int r = tbenc_sink_init(&sink, p->fds[0]);

    if (r == 0)
        r = tb_weights_start(p->weights);
    if (r < 0)
        (void)tbenc_fail(&e, r, "cannot write the plaintext: %s", strerror(-r));
    if (r < 0)
        (void)pour_fail(p, NULL, r, &e);
    for (size_t i = 0; r == 0 && i < tb_weights_files(p->weights); i++)
        r = pour_file_to_pipe(p, &sink, &lent, i);
    if (r == 0) /* else they stay: what the pipe has is not to change */
        lent_return(&lent, UINT64_MAX);
    while (r == 0 && pour_take(p, &at))
        if (!tb_cache_verified(at.layer->cache, at.index))
            r = pour_block(p, 0, &at);
    tb_weights_stop(p->weights);
    tb_weights_join(p->weights);
}

/* -- all of it ------------------------------------------------------------------------------------------- */
static int pour_deal(struct tb_pour *p)
{
    const struct tb_weights *w = p->weights;

    for (unsigned i = 0; i < w->n_layers; i++) {
        size_t n = MAX(w->layers[i].manifest->n_files, 1U);

        p->to[i] = calloc(n, sizeof(int));
        if (!p->to[i])
            return -ENOMEM;
        for (size_t k = 0; k < n; k++)
            p->to[i][k] = -1;
    }
    for (size_t i = 0; !p->fifo && i < tb_weights_files(w); i++)
        p->to[w->places[i].layer - w->layers][w->places[i].file] = p->fds[i];
    return 0;
}

static int pour_judge(struct tb_pour *p, const struct weights_layer **at_fault, struct tbenc_error *e)
{
    struct tb_cache_state state;
    int r = p->error;

    *at_fault = p->at_fault;
    *e = p->why;
    if (r < 0)
        return r;
    tb_weights_state(p->weights, &state);
    r = tb_weights_error(p->weights, at_fault, e);
    return r < 0 || state.complete ? r : tbenc_fail(e, -EIO, "not all of it was verified");
}

int tb_pour_run(struct tb_pour *p, const struct weights_layer **at_fault, struct tbenc_error *e)
{
    int r;

    (void)pthread_mutex_init(&p->lock, NULL);
    p->layer = p->weights->n_layers - 1;
    r = pour_deal(p);
    if (r == 0 && !p->fifo)
        r = pour_size_files(p);
    if (r == 0 && p->fifo)
        pour_fifo(p);
    else if (r == 0)
        pour_files(p);
    r = r == -ENOMEM ? tbenc_fail(e, r, "out of memory") : pour_judge(p, at_fault, e);
    for (unsigned i = 0; i < p->weights->n_layers; i++)
        free(p->to[i]);
    (void)pthread_mutex_destroy(&p->lock);
    return r;
}
