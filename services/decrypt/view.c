/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/view.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#include "common/macros.h"
#include "common/units.h"
#include "tbenc/engine.h"

#define VIEW_WAIT_MS 200

/* -- READ ----------------------------------------------------------------------------------------------- */
/* Bytes of them that went to the kernel. */
static size_t read_send(struct tb_view *v, uint64_t unique, const struct weights_piece *p, int n)
{
    struct fuse_out_header h = {.len = sizeof(h), .unique = unique};
    struct iovec iov[3] = {{&h, sizeof(h)}};

    for (int i = 0; i < n; i++) {
        iov[i + 1] = (struct iovec){(void *)(p[i].slot->pt + p[i].skip), p[i].n};
        h.len += (uint32_t)p[i].n;
    }
    if (writev(v->fuse_fd, iov, n + 1) >= 0)
        return h.len - sizeof(h);
    if (errno != ENOENT && errno != ENODEV && errno != EPERM)
        view_reply(v, unique, -EIO, NULL, 0);
    return 0;
}

static bool read_is_interrupted(const struct tb_view *v, uint64_t unique)
{
    for (unsigned i = 0; i < MIN(v->n_interrupted, (unsigned)VIEW_INTERRUPTS); i++)
        if (v->interrupted[i] == unique)
            return true;
    return false;
}

/* 0: it is answered when its bytes came. -EINTR: nobody waits for it any more. */
static int read_park(struct tb_view *v, const struct fuse_request *q)
{
    struct view_read *r = malloc(sizeof(*r));
    int e = 0;

    if (!r)
        return -ENOMEM;
    r->q = *q;
    (void)pthread_mutex_lock(&v->lock);
    if (atomic_load(&v->revoked))
        e = -ESHUTDOWN;
    else if (read_is_interrupted(v, q->unique))
        e = -EINTR;
    if (e == 0) {
        r->next = v->parked;
        v->parked = r;
        (void)pthread_cond_broadcast(&v->changed);
    }
    (void)pthread_mutex_unlock(&v->lock);
    if (e < 0)
        free(r);
    return e;
}

static void view_read(struct tb_view *v, unsigned thread, const struct fuse_request *q)
{
    const struct fuse_node *node = fuse_tree_node(&v->tree, q->node);
    struct weights_piece p[2];
    uint64_t off = q->read.offset, end;
    struct weights_served served = {.kept = !(q->read.flags & O_DIRECT)};
    int n;

    if (!node || node->file == FUSE_TREE_NO_FILE)
        return view_reply(v, q->unique, node ? -EISDIR : -ESTALE, NULL, 0);
    end = MIN(off + q->read.size, node->bytes);
    if (off >= end)
        return view_reply(v, q->unique, 0, NULL, 0);
    n = atomic_load(&v->revoked) ? -ESHUTDOWN : tb_weights_pin(v->weights, thread, node->file, off, end, p);
    if (n == -EAGAIN)
        n = read_park(v, q);
    if (n < 0)
        return view_reply(v, q->unique, n == -EINTR ? n : -EIO, NULL, 0);
    if (n == 0) /* parked */
        return;
    served.bytes = read_send(v, q->unique, p, n);
    tb_weights_unpin(v->weights, node->file, end, VIEW_FILL_AHEAD, p, n, served);
}

/* -- threads --------------------------------------------------------------------------------------------- */
static void view_end(struct tb_view *v)
{
    (void)pthread_mutex_lock(&v->lock);
    atomic_store(&v->ended, true);
    (void)pthread_cond_broadcast(&v->changed);
    (void)pthread_mutex_unlock(&v->lock);
    tb_weights_stop(v->weights);
    (void)eventfd_write(v->weights->event_fd, 1);
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
    struct tbenc_error e = {0};
    _cleanup_free_ void *buf = malloc(FUSE_REQUEST_MAX);
    int r = buf ? 0 : -ENOMEM;

    while (r == 0) {
        ssize_t n = read(v->fuse_fd, buf, FUSE_REQUEST_MAX);

        if (n >= 0)
            view_handle(v, t->number, buf, (size_t)n);
        else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
            r = -errno;
    }
    if (r == -ENODEV || r == -ECONNABORTED) /* unmounted; between two requests or in one */
        view_end(v);
    else /* of this thread alone: others may wait for requests, so the mount is not over */
        tb_weights_fail(v->weights, NULL, tbenc_fail(&e, r, "cannot read from /dev/fuse: %s", strerror(-r)),
                        &e);
    return NULL;
}

/* A parked READ whose bytes have come, or none. Under the lock. */
static struct view_read *waker_take(struct tb_view *v)
{
    for (struct view_read **p = &v->parked; *p; p = &(*p)->next) {
        struct view_read *r = *p;
        const struct fuse_node *node = fuse_tree_node(&v->tree, r->q.node);
        uint64_t end = MIN(r->q.read.offset + r->q.read.size, node->bytes);

        if (tb_weights_came(v->weights, node->file, r->q.read.offset, end)) {
            *p = r->next;
            return r;
        }
    }
    return NULL;
}

/* Answers what was parked. The first of them tells the others that bytes came. */
static void *view_waker(void *arg)
{
    struct view_thread *t = arg;
    struct tb_view *v = t->v;
    const struct tb_ciphertext *c = tb_weights_coming(v->weights);
    bool watches = t->number == v->n_each;

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
unsigned tb_view_readers(const struct tb_weights *w)
{
    return (tb_weights_coming(w) ? 2 : 1) * tb_weights_threads();
}

int tb_view_init(struct tb_view *v, struct tbenc_error *e)
{
    int r;

    v->n_each = tb_weights_threads();
    (void)pthread_mutex_init(&v->lock, NULL);
    (void)pthread_cond_init(&v->changed, NULL);
    r = fuse_tree_init(&v->tree, v->weights->files, tb_now_realtime_us() / TB_USEC_PER_SEC);
    return r < 0 ? tbenc_fail(e, r, "cannot make the tree of files: %s", strerror(-r)) : 0;
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
    int r = view_start_some(v, view_worker, v->n_each);

    if (r == 0 && tb_weights_coming(v->weights))
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
    (void)pthread_cond_broadcast(&v->changed);
    (void)pthread_mutex_unlock(&v->lock);
    for (; r; r = next) {
        next = r->next;
        view_reply(v, r->q.unique, -EIO, NULL, 0);
        free(r);
    }
}

void tb_view_revoke(struct tb_view *v)
{
    revoke_parked(v);
    tb_weights_revoke(v->weights);
    view_take_back(v);
}
