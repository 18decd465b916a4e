/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that were read are taken back. The kernel does so one page after another, and a runtime that has all
 * mapped goes on by those that are left, as fast as the kernel takes them or faster: so a page here and there
 * of every file goes first. And it waits for a page that it is reading, which a disk that does not answer may
 * keep for ever, with what comes after it in the same call: so the calls are of little each, there are many
 * threads for them, and what is left does not wait long for what goes first. */
#include <linux/fuse.h>
#include <sys/uio.h>

#include "common/cond.h"
#include "common/macros.h"
#include "common/notify.h"
#include "decrypt/view.h"

#define FIRST_PAGES 1024 /* of a file, at most */
#define FIRST_STEP_MIN (1024 * 1024ULL)
#define FIRST_MS 100
#define WATCH_MS 1000
#define REST_STEP (16 * 1024 * 1024ULL)
#define THREADS 16 /* of which all but one may hang */

struct pass {
    struct tb_view *v;
    bool rest;
    pthread_t threads[THREADS];
    unsigned n_threads;
    pthread_mutex_t lock;
    pthread_cond_t over;
    /* under the lock */
    size_t node;
    uint64_t at;
    unsigned n_working;
};

/* Of a file that nobody knows there are no pages. */
static void take_back(const struct tb_view *v, const struct fuse_notify_inval_inode_out *o)
{
    struct fuse_out_header h = {.len = sizeof(h) + sizeof(*o), .error = FUSE_NOTIFY_INVAL_INODE};
    struct iovec iov[] = {{&h, sizeof(h)}, {(void *)o, sizeof(*o)}};

    (void)!writev(v->fuse_fd, iov, ARRAY_SIZE(iov));
}

static bool pass_next(struct pass *p, struct fuse_notify_inval_inode_out *ret)
{
    const struct fuse_tree *tree = &p->v->tree;
    bool found = false;

    (void)pthread_mutex_lock(&p->lock);
    while (!found && p->node < tree->n) {
        uint64_t bytes = tree->nodes[p->node].bytes, at = p->at;

        found = at < bytes || (p->rest && at == 0);
        if (!found) {
            p->node++;
            p->at = 0;
            continue;
        }
        *ret = (struct fuse_notify_inval_inode_out){.ino = p->node + 1, .off = (int64_t)at, .len = 1};
        if (p->rest)
            ret->len = bytes - at > REST_STEP ? (int64_t)REST_STEP : 0; /* 0: to the end */
        p->at += p->rest ? REST_STEP : MAX(bytes / FIRST_PAGES, FIRST_STEP_MIN);
    }
    (void)pthread_mutex_unlock(&p->lock);
    return found;
}

static void *pass_run(void *arg)
{
    struct pass *p = arg;
    struct fuse_notify_inval_inode_out o;

    while (pass_next(p, &o))
        take_back(p->v, &o);
    (void)pthread_mutex_lock(&p->lock);
    if (--p->n_working == 0)
        (void)pthread_cond_broadcast(&p->over);
    (void)pthread_mutex_unlock(&p->lock);
    return NULL;
}

static void pass_start(struct pass *p)
{
    (void)pthread_mutex_init(&p->lock, NULL);
    tb_cond_init(&p->over);
    p->n_working = THREADS;
    while (p->n_threads < THREADS && pthread_create(&p->threads[p->n_threads], NULL, pass_run, p) == 0)
        p->n_threads++;
    (void)pthread_mutex_lock(&p->lock);
    p->n_working -= THREADS - MAX(p->n_threads, 1U);
    (void)pthread_mutex_unlock(&p->lock);
    if (p->n_threads == 0)
        (void)pass_run(p);
}

/* false: it goes on. */
static bool pass_wait(struct pass *p, unsigned timeout_ms)
{
    struct timespec until = tb_cond_until(timeout_ms);
    bool over;
    int r = 0;

    (void)pthread_mutex_lock(&p->lock);
    while (r == 0 && p->n_working > 0)
        r = pthread_cond_timedwait(&p->over, &p->lock, &until);
    over = p->n_working == 0;
    (void)pthread_mutex_unlock(&p->lock);
    return over;
}

/* A large model that all is mapped of takes long; a disk that hangs is no reason to wait for ever. */
static void pass_await(struct pass *p)
{
    size_t node = SIZE_MAX;
    uint64_t at = 0;

    while (!pass_wait(p, WATCH_MS)) {
        (void)pthread_mutex_lock(&p->lock);
        if (node != p->node || at != p->at)
            tb_notify_watchdog();
        node = p->node;
        at = p->at;
        (void)pthread_mutex_unlock(&p->lock);
    }
}

static void pass_join(struct pass *p)
{
    while (p->n_threads > 0)
        (void)pthread_join(p->threads[--p->n_threads], NULL);
    (void)pthread_cond_destroy(&p->over);
    (void)pthread_mutex_destroy(&p->lock);
}

void view_take_back(struct tb_view *v)
{
    struct pass first = {.v = v}, rest = {.v = v, .rest = true};

    pass_start(&first);
    (void)pass_wait(&first, FIRST_MS);
    pass_start(&rest);
    pass_await(&rest);
    pass_join(&rest);
    pass_join(&first);
}
