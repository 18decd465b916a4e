/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/view.h"

#include <assert.h>
#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "common/macros.h"
#include "common/units.h"
#include "tbenc/engine.h"

#define VIEW_WAIT_MS 200
#define VIEW_REVOKE_MS 200

int tb_view_error(struct tb_view *v, const struct view_layer **at_fault, struct tbenc_error *e)
{
    int r;

    (void)pthread_mutex_lock(&v->lock);
    r = v->error;
    *at_fault = v->at_fault;
    *e = v->why;
    (void)pthread_mutex_unlock(&v->lock);
    return r;
}

/* -- READ ----------------------------------------------------------------------------------------------- */
/* What a READ holds while it is answered: a block is at least as long as the longest READ, so two. */
struct read_piece {
    const struct tb_slot *slot;
    size_t skip, n;
};

static void read_unpin(const struct view_place *at, struct read_piece *p, int n)
{
    while (n > 0)
        tb_cache_unpin(at->layer->cache, p[--n].slot);
}

/* Number of pieces, or -errno; -EAGAIN: not there yet. */
static int read_pin(const struct view_place *at, unsigned thread, uint64_t off, uint64_t end,
                    struct read_piece p[static 2], struct tbenc_error *e)
{
    const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
    int n = 0;

    for (; off < end; n++) {
        int r = tb_cache_pin(at->layer->cache, thread, tb_blocks_at(b, at->file, off), &p[n].slot, e);
        uint64_t start;

        if (r < 0) {
            read_unpin(at, p, n);
            return r;
        }
        start = p[n].slot->block.first.file_off;
        p[n].skip = (size_t)(off - start);
        p[n].n = (size_t)MIN(end - off, p[n].slot->block.len - p[n].skip);
        off += p[n].n;
    }
    return n;
}

static void read_send(struct tb_view *v, uint64_t unique, const struct view_place *at,
                      const struct read_piece *p, int n)
{
    struct fuse_out_header h = {.len = sizeof(h), .unique = unique};
    struct iovec iov[3] = {{&h, sizeof(h)}};

    for (int i = 0; i < n; i++) {
        iov[i + 1] = (struct iovec){(void *)(p[i].slot->pt + p[i].skip), p[i].n};
        h.len += (uint32_t)p[i].n;
    }
    if (writev(v->fuse_fd, iov, n + 1) >= 0)
        for (int i = 0; i < n; i++)
            tb_cache_served(at->layer->cache, p[i].slot, p[i].n);
    else if (errno != ENOENT && errno != ENODEV && errno != EPERM)
        view_reply(v, unique, -EIO, NULL, 0);
}

static bool read_is_interrupted(const struct tb_view *v, uint64_t unique)
{
    for (unsigned i = 0; i < MIN(v->n_interrupted, (unsigned)VIEW_INTERRUPTS); i++)
        if (v->interrupted[i] == unique)
            return true;
    return false;
}

static bool read_park(struct tb_view *v, const struct fuse_request *q)
{
    struct view_read *r = malloc(sizeof(*r));
    bool parked;

    if (!r)
        return false;
    r->q = *q;
    (void)pthread_mutex_lock(&v->lock);
    parked = !atomic_load(&v->revoked) && !read_is_interrupted(v, q->unique);
    if (parked) {
        r->next = v->parked;
        v->parked = r;
        (void)pthread_cond_broadcast(&v->changed);
    }
    (void)pthread_mutex_unlock(&v->lock);
    if (!parked)
        free(r);
    return parked;
}

static void read_want(const struct view_place *at, uint64_t off, uint64_t end)
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

static void view_read(struct tb_view *v, unsigned thread, const struct fuse_request *q)
{
    const struct fuse_node *node = fuse_tree_node(&v->tree, q->node);
    const struct view_place *at;
    struct tbenc_error e = {0};
    struct read_piece p[2];
    uint64_t off = q->read.offset, end;
    int n;

    if (!node || node->file == FUSE_TREE_NO_FILE)
        return view_reply(v, q->unique, node ? -EISDIR : -ESTALE, NULL, 0);
    end = MIN(off + q->read.size, node->bytes);
    if (off >= end)
        return view_reply(v, q->unique, 0, NULL, 0);
    at = &v->places[node->file];
    atomic_store(&v->read_us, tb_now_monotonic_us());
    n = atomic_load(&v->revoked) ? -ESHUTDOWN : read_pin(at, thread, off, end, p, &e);
    if (n == -EAGAIN) {
        read_want(at, off, end);
        if (read_park(v, q))
            return;
    }
    if (n < 0) {
        view_reply(v, q->unique, -EIO, NULL, 0);
        if (n != -ESHUTDOWN && n != -EAGAIN)
            view_fail(v, at->layer, n, &e);
        return;
    }
    read_send(v, q->unique, at, p, n);
    view_fill_after(v, at, tb_blocks_at(tb_cache_blocks(at->layer->cache), at->file, end - 1));
    read_unpin(at, p, n);
}

/* -- threads --------------------------------------------------------------------------------------------- */
static void view_end(struct tb_view *v)
{
    (void)pthread_mutex_lock(&v->lock);
    atomic_store(&v->ended, true);
    (void)pthread_cond_broadcast(&v->changed);
    (void)pthread_cond_broadcast(&v->work);
    (void)pthread_mutex_unlock(&v->lock);
    (void)eventfd_write(v->event_fd, 1);
}

static void view_handle(struct tb_view *v, unsigned thread, const void *buf, size_t n)
{
    struct fuse_request q;
    int r = fuse_request_parse(buf, n, &q);

    if (r == -ENOSYS)
        return view_reply(v, q.unique, -ENOSYS, NULL, 0);
    if (r < 0)
        return view_reply(v, q.unique, -EINVAL, NULL, 0);
    if (q.opcode == FUSE_READ)
        view_read(v, thread, &q);
    else
        view_answer(v, &q);
}

static void *view_worker(void *arg)
{
    struct view_thread *t = arg;
    struct tb_view *v = t->v;
    struct tbenc_error e = {.message = "the descriptor of /dev/fuse is not that of a mount"};
    _cleanup_free_ void *buf = malloc(FUSE_REQUEST_MAX);
    ssize_t n;

    while (buf) {
        n = read(v->fuse_fd, buf, FUSE_REQUEST_MAX);
        if (n >= 0)
            view_handle(v, t->number, buf, (size_t)n);
        else if (errno == ENODEV)
            break;
        else if (errno != EINTR && errno != EAGAIN && errno != ENOENT) {
            view_fail(v, NULL, -errno, &e);
            break;
        }
    }
    view_end(v);
    return NULL;
}

/* A parked READ whose bytes have come, or none. Under the lock. */
static struct view_read *waker_take(struct tb_view *v)
{
    for (struct view_read **p = &v->parked; *p; p = &(*p)->next) {
        struct view_read *r = *p;
        const struct fuse_node *node = fuse_tree_node(&v->tree, r->q.node);
        const struct view_place *at = &v->places[node->file];
        const struct tb_blocks *b = tb_cache_blocks(at->layer->cache);
        uint64_t end = MIN(r->q.read.offset + r->q.read.size, node->bytes);
        struct tb_cache_block first, last;

        tb_blocks_get(b, tb_blocks_at(b, at->file, r->q.read.offset), &first);
        tb_blocks_get(b, tb_blocks_at(b, at->file, end - 1), &last);
        if (tb_ciphertext_has(&at->layer->ciphertext, first.ct_from, last.ct_to)) {
            *p = r->next;
            return r;
        }
    }
    return NULL;
}

/* A ciphertext that is still coming; NULL: all came. */
static const struct tb_ciphertext *view_coming(const struct tb_view *v)
{
    for (unsigned i = 0; i < v->n_layers; i++)
        if (v->layers[i].ciphertext.has)
            return &v->layers[i].ciphertext;
    return NULL;
}

/* Answers what was parked. The first of them tells the others that bytes came. */
static void *view_waker(void *arg)
{
    struct view_thread *t = arg;
    struct tb_view *v = t->v;
    const struct tb_ciphertext *c = view_coming(v);
    bool watches = t->number == 2 * v->n_each;

    while (!atomic_load(&v->ended) && !atomic_load(&v->revoked)) {
        struct view_read *r;

        (void)pthread_mutex_lock(&v->lock);
        r = waker_take(v);
        if (!r && !watches && !atomic_load(&v->ended) && !atomic_load(&v->revoked))
            (void)pthread_cond_wait(&v->changed, &v->lock);
        (void)pthread_mutex_unlock(&v->lock);
        if (r)
            view_read(v, t->number, &r->q);
        free(r);
        if (!r && watches) {
            c->wait(c->ctx, VIEW_WAIT_MS);
            (void)pthread_mutex_lock(&v->lock);
            (void)pthread_cond_broadcast(&v->changed);
            (void)pthread_mutex_unlock(&v->lock);
        }
    }
    return NULL;
}

/* -- made, started, ended -------------------------------------------------------------------------------- */
static int view_make_caches(struct tb_view *v, const uint8_t *key, struct tbenc_error *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < v->n_layers; i++) {
        struct view_layer *l = &v->layers[i];
        struct tb_cache_params p = {.manifest = l->manifest,
                                    .key = key,
                                    .ciphertext = &l->ciphertext,
                                    .threads = (view_coming(v) ? 3 : 2) * v->n_each};

        p.slots = tb_cache_slots(l->manifest, p.threads);
        r = tb_cache_new(&p, &l->cache, e);
    }
    return r;
}

/* The tree's files are dealt to the ciphertexts by number, in place of descriptors. */
static int view_deal(struct tb_view *v)
{
    const struct tbenc_manifest *own = v->layers[0].manifest, *base = v->layers[1].manifest;
    size_t n = v->files->files ? v->files->n_files : 1, n_own = own->n_files;
    _cleanup_free_ int *numbers = calloc(n, sizeof(*numbers)), *dealt = NULL;
    int r;

    v->places = calloc(n, sizeof(*v->places));
    if (!v->places || !numbers)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        numbers[i] = (int)i;
        v->places[i] = (struct view_place){&v->layers[0], i};
    }
    if (v->n_layers == 1)
        return 0;
    dealt = calloc(n_own + base->n_files + 1, sizeof(*dealt));
    r = dealt ? tbenc_tree_deal(own, base, v->files, numbers, dealt, dealt + n_own) : -ENOMEM;
    for (size_t i = 0; r == 0 && i < n_own + base->n_files; i++)
        if (dealt[i] >= 0)
            v->places[dealt[i]] = i < n_own ? (struct view_place){&v->layers[0], i}
                                            : (struct view_place){&v->layers[1], i - n_own};
    return r;
}

int tb_view_init(struct tb_view *v, const uint8_t *key, struct tbenc_error *e)
{
    int r;

    v->n_each = MIN(MAX(tbenc_threads(0), 2U), (unsigned)VIEW_THREADS_MAX);
    (void)pthread_mutex_init(&v->lock, NULL);
    (void)pthread_cond_init(&v->changed, NULL);
    (void)pthread_cond_init(&v->work, NULL);
    r = view_make_caches(v, key, e);
    if (r < 0)
        return r;
    r = fuse_tree_init(&v->tree, v->files, tb_now_realtime_us() / TB_USEC_PER_SEC);
    if (r == 0)
        r = view_deal(v);
    return r < 0 ? tbenc_fail(e, r, "cannot make the tree of files: %s", strerror(-r)) : 0;
}

void tb_view_state(struct tb_view *v, struct tb_cache_state *ret)
{
    *ret = (struct tb_cache_state){.complete = true};
    for (unsigned i = 0; i < v->n_layers; i++) {
        struct tb_cache_state s = {0};

        if (v->layers[i].cache)
            tb_cache_state(v->layers[i].cache, &s);
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
            view_fail(v, &v->layers[i], -EBADMSG,
                      &(struct tbenc_error){.message =
                                                "tags_sha256 is not what the manifest says: damaged, or "
                                                "another manifest's file"});
    }
}

static int layer_verify(struct view_layer *l, bool all, bool (*stop)(void *ctx), void *ctx,
                        struct tbenc_error *e)
{
    uint64_t n = tb_cache_blocks(l->cache)->n;

    for (uint64_t i = 0; i < (all ? n : MIN(n, 1U)); i++) {
        const struct tb_slot *s;
        int r = stop(ctx) ? -ECANCELED : tb_cache_pin(l->cache, 0, i, &s, e);

        if (r == 0)
            tb_cache_unpin(l->cache, s);
        else if (r != -EAGAIN)
            return r;
    }
    return 0;
}

int tb_view_verify(struct tb_view *v, bool all, bool (*stop)(void *ctx), void *ctx, struct tbenc_error *e)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < v->n_layers; i++) {
        r = layer_verify(&v->layers[i], all, stop, ctx, e);
        if (r < 0)
            v->at_fault = &v->layers[i];
    }
    return r;
}

static int view_start_some(struct tb_view *v, void *(*run)(void *), unsigned n)
{
    int r = 0;

    for (unsigned i = 0; r == 0 && i < n; i++) {
        unsigned k = v->n_started;

        v->threads[k] = (struct view_thread){.v = v, .number = k};
        r = pthread_create(&v->threads[k].id, NULL, run, &v->threads[k]);
        v->n_started += r == 0;
    }
    return -r;
}

int tb_view_start(struct tb_view *v)
{
    int r;

    v->start_us = tb_now_monotonic_us();
    r = view_start_some(v, view_worker, v->n_each);

    if (r == 0)
        r = view_start_some(v, view_filler, v->n_each);
    if (r == 0 && view_coming(v))
        r = view_start_some(v, view_waker, v->n_each);
    return r;
}

void tb_view_leave(struct tb_view *v)
{
    for (; v->n_started > 0; v->n_started--) {
        pthread_t id = v->threads[v->n_started - 1].id;

        (void)(tb_view_over(v) ? pthread_join(id, NULL) : pthread_detach(id));
    }
}

static void revoke_parked(struct tb_view *v)
{
    struct view_read *r, *next;

    (void)pthread_mutex_lock(&v->lock);
    atomic_store(&v->revoked, true);
    r = TAKE_PTR(v->parked);
    (void)pthread_cond_broadcast(&v->work);
    (void)pthread_cond_broadcast(&v->changed);
    (void)pthread_mutex_unlock(&v->lock);
    for (; r; r = next) {
        next = r->next;
        view_reply(v, r->q.unique, -EIO, NULL, 0);
        free(r);
    }
}

static void *revoke_files(void *arg)
{
    struct tb_view *v = arg;
    size_t i;

    while ((i = atomic_fetch_add(&v->next_revoked, 1)) < v->tree.n) {
        struct fuse_notify_inval_inode_out o = {.ino = i + 1};
        struct fuse_out_header h = {.len = sizeof(h) + sizeof(o), .error = FUSE_NOTIFY_INVAL_INODE};
        struct iovec iov[] = {{&h, sizeof(h)}, {&o, sizeof(o)}};

        (void)!writev(v->fuse_fd, iov, ARRAY_SIZE(iov)); /* a file that nobody knows has no pages */
    }
    return NULL;
}

void tb_view_revoke(struct tb_view *v)
{
    pthread_t t[VIEW_THREADS_MAX];
    unsigned n = 0;

    revoke_parked(v);
    for (unsigned i = 0; i < v->n_layers; i++)
        if (v->layers[i].cache)
            (void)tb_cache_revoke(v->layers[i].cache, VIEW_REVOKE_MS);
    while (n + 1 < v->n_each && pthread_create(&t[n], NULL, revoke_files, v) == 0)
        n++;
    (void)revoke_files(v);
    while (n > 0)
        (void)pthread_join(t[--n], NULL);
}
