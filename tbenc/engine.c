/* SPDX-License-Identifier: Apache-2.0 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>

#include "tbenc/engine.h"
#include "common/secret.h"

/* Large chunks and many CPUs must not add up to all of memory: buffers stay below this, or as few as can
 * work. */
#define RING_BYTES_MAX (512ULL * 1024 * 1024)

enum { RETIRE, OBSERVE, CONSUMERS = OBSERVE + TBENC_OBSERVERS_MAX };

struct tbenc_engine {
    const struct tbenc_engine_params *p;
    struct tbenc_batch *ring;
    size_t n_ring, ct_size, pt_size;

    pthread_mutex_t filling; /* held by the worker that fills the next batch; taken before lock */
    pthread_mutex_t lock;    /* all that follows, and ready, rc and seq of each batch */
    pthread_cond_t freed, done;
    uint64_t next; /* batch to fill next */
    uint64_t end;  /* number of batches; UINT64_MAX until known */
    bool stop;
    uint64_t consumed[CONSUMERS];
    int observer_rc;
};

struct thread_arg {
    struct tbenc_engine *eng;
    unsigned index;
    pthread_t id;
};

unsigned tbenc_batch_records(uint32_t chunk_bytes)
{
    return (unsigned)MIN(MAX(TBENC_BATCH_BYTES / chunk_bytes, 1U), TBENC_BATCH_RECORDS);
}

unsigned tbenc_threads(unsigned asked)
{
    cpu_set_t set;

    if (asked == 0)
        asked = sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
    return MIN(asked, TBENC_THREADS_MAX);
}

/* -- the ring -------------------------------------------------------------------------------------------- */
static uint8_t *pages_alloc(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return NULL;
    (void)madvise(p, n, MADV_DONTDUMP);
    return p;
}

static void ring_free(struct tbenc_engine *eng)
{
    for (size_t i = 0; eng->ring && i < eng->n_ring; i++) {
        struct tbenc_batch *b = &eng->ring[i];

        if (b->pt) {
            tb_erase(b->pt, b->pt_dirty);
            munmap(b->pt, eng->pt_size);
        }
        if (b->ct)
            munmap(b->ct, eng->ct_size);
        free(b->rec);
        free(b->tagrec);
    }
    free(eng->ring);
    eng->ring = NULL;
}

static int ring_alloc(struct tbenc_engine *eng)
{
    unsigned records = tbenc_batch_records(eng->p->chunk_bytes);
    size_t least = 3 + eng->p->lag, want = 2 * (size_t)eng->p->workers + 2 + eng->p->lag;

    eng->pt_size = (size_t)records * eng->p->chunk_bytes;
    eng->ct_size = eng->pt_size + (size_t)records * TBENC_RECORD_OVERHEAD;
    eng->n_ring = MAX(MIN(want, RING_BYTES_MAX / (eng->ct_size + eng->pt_size)), least);
    eng->ring = calloc(eng->n_ring, sizeof(*eng->ring));
    if (!eng->ring)
        return -ENOMEM;
    for (size_t i = 0; i < eng->n_ring; i++) {
        struct tbenc_batch *b = &eng->ring[i];

        b->ct = pages_alloc(eng->ct_size);
        b->pt = pages_alloc(eng->pt_size);
        b->rec = calloc(records, sizeof(*b->rec));
        b->tagrec = calloc(records, TBENC_TAGREC_BYTES);
        if (!b->ct || !b->pt || !b->rec || !b->tagrec)
            return -ENOMEM;
    }
    return 0;
}

/* -- state, all under eng->lock -------------------------------------------------------------------------- */
static struct tbenc_batch *engine_slot(struct tbenc_engine *eng, uint64_t seq)
{
    return &eng->ring[seq % eng->n_ring];
}

/* Batches before this one may be overwritten. */
static uint64_t engine_released(const struct tbenc_engine *eng)
{
    uint64_t least = eng->consumed[RETIRE] > eng->p->lag ? eng->consumed[RETIRE] - eng->p->lag : 0;

    for (unsigned i = 0; i < TBENC_OBSERVERS_MAX; i++)
        if (eng->p->ops->observe[i])
            least = MIN(least, eng->consumed[OBSERVE + i]);
    return least;
}

static void engine_set_end(struct tbenc_engine *eng, uint64_t end)
{
    eng->end = MIN(eng->end, end);
    pthread_cond_broadcast(&eng->done);
    pthread_cond_broadcast(&eng->freed);
}

static void engine_stop_locked(struct tbenc_engine *eng)
{
    uint64_t one = 1;

    eng->stop = true;
    pthread_cond_broadcast(&eng->done);
    pthread_cond_broadcast(&eng->freed);
    if (eng->p->wake_fd >= 0 && write(eng->p->wake_fd, &one, sizeof(one)) < 0)
        return; /* an eventfd only refuses when it is readable already */
}

static void engine_stop(struct tbenc_engine *eng)
{
    pthread_mutex_lock(&eng->lock);
    engine_stop_locked(eng);
    pthread_mutex_unlock(&eng->lock);
}

/* -- workers --------------------------------------------------------------------------------------------- */
/* The next batch, emptied, once its buffers are free. NULL when there is nothing left to do. */
static struct tbenc_batch *engine_next_slot(struct tbenc_engine *eng)
{
    struct tbenc_batch *b = NULL;

    pthread_mutex_lock(&eng->lock);
    while (!eng->stop && eng->next < eng->end && eng->next >= engine_released(eng) + eng->n_ring)
        pthread_cond_wait(&eng->freed, &eng->lock);
    if (!eng->stop && eng->next < eng->end) {
        b = engine_slot(eng, eng->next);
        b->seq = eng->next;
        b->ready = false;
        b->n = 0;
        b->ct_len = b->pt_len = b->ct_got = 0;
        b->rc = 0;
    }
    pthread_mutex_unlock(&eng->lock);
    return b;
}

static struct tbenc_batch *engine_claim(struct tbenc_engine *eng)
{
    struct tbenc_batch *b;
    int r;

    pthread_mutex_lock(&eng->filling);
    b = engine_next_slot(eng);
    if (b) {
        r = eng->p->ops->fill(eng->p->ctx, b);
        pthread_mutex_lock(&eng->lock);
        b->rc = MIN(r, 0);
        b->pt_dirty = MAX(b->pt_dirty, b->pt_len);
        if (r != 0)
            eng->next++;
        if (r <= 0)
            engine_set_end(eng, eng->next);
        if (r == 0)
            b = NULL;
        pthread_mutex_unlock(&eng->lock);
    }
    pthread_mutex_unlock(&eng->filling);
    return b;
}

static void *worker_main(void *arg)
{
    struct thread_arg *t = arg;
    struct tbenc_engine *eng = t->eng;
    struct tbenc_batch *b;

    while ((b = engine_claim(eng))) {
        int r = b->rc < 0 ? b->rc : eng->p->ops->work(eng->p->ctx, t->index, b);

        pthread_mutex_lock(&eng->lock);
        b->rc = r;
        b->ready = true;
        if (r < 0)
            engine_set_end(eng, b->seq + 1);
        pthread_cond_broadcast(&eng->done);
        pthread_mutex_unlock(&eng->lock);
    }
    return NULL;
}

/* -- consumers ------------------------------------------------------------------------------------------- */
static struct tbenc_batch *engine_wait_ready(struct tbenc_engine *eng, uint64_t seq)
{
    struct tbenc_batch *b = engine_slot(eng, seq);

    pthread_mutex_lock(&eng->lock);
    while (!eng->stop && seq < eng->end && !(seq < eng->next && b->seq == seq && b->ready))
        pthread_cond_wait(&eng->done, &eng->lock);
    if (eng->stop || seq >= eng->end)
        b = NULL;
    pthread_mutex_unlock(&eng->lock);
    return b;
}

/* Takes all batches in order. 0 at the end, or the first failure, of the batch (*failed is set) or of fn. */
static int engine_consume(struct tbenc_engine *eng, unsigned who, int (*fn)(void *, struct tbenc_batch *),
                          struct tbenc_batch **failed)
{
    struct tbenc_batch *b;

    for (uint64_t seq = 0; (b = engine_wait_ready(eng, seq)); seq++) {
        int r = b->rc < 0 ? b->rc : fn(eng->p->ctx, b);

        if (r < 0) {
            *failed = b;
            return r;
        }
        pthread_mutex_lock(&eng->lock);
        eng->consumed[who] = seq + 1;
        pthread_cond_signal(&eng->freed); /* only the worker that fills waits for it */
        pthread_mutex_unlock(&eng->lock);
    }
    return 0;
}

static void *observer_main(void *arg)
{
    struct thread_arg *t = arg;
    struct tbenc_batch *failed = NULL;
    int r;

    r = engine_consume(t->eng, OBSERVE + t->index, t->eng->p->ops->observe[t->index], &failed);
    if (r >= 0 || failed->rc < 0) /* a failed batch is reported by the retiring thread */
        return NULL;
    pthread_mutex_lock(&t->eng->lock);
    t->eng->observer_rc = r;
    engine_stop_locked(t->eng);
    pthread_mutex_unlock(&t->eng->lock);
    return NULL;
}

/* -- running --------------------------------------------------------------------------------------------- */
static int engine_start_observers(struct tbenc_engine *eng, struct thread_arg *t, unsigned *n)
{
    for (unsigned i = 0; i < TBENC_OBSERVERS_MAX; i++) {
        if (!eng->p->ops->observe[i])
            continue;
        t[*n] = (struct thread_arg){.eng = eng, .index = i};
        if (pthread_create(&t[*n].id, NULL, observer_main, &t[*n]) != 0)
            return -EAGAIN;
        (*n)++;
    }
    return 0;
}

/* One worker is enough to go on with. */
static int engine_start_workers(struct tbenc_engine *eng, struct thread_arg *t, unsigned *n)
{
    for (unsigned i = 0; i < eng->p->workers; i++) {
        t[*n] = (struct thread_arg){.eng = eng, .index = i};
        if (pthread_create(&t[*n].id, NULL, worker_main, &t[*n]) != 0)
            return i > 0 ? 0 : -EAGAIN;
        (*n)++;
    }
    return 0;
}

static int engine_run_threads(struct tbenc_engine *eng, struct tbenc_error *e)
{
    struct thread_arg t[TBENC_THREADS_MAX + TBENC_OBSERVERS_MAX];
    struct tbenc_batch *failed = NULL;
    sigset_t all, saved;
    unsigned n = 0;
    int r;

    /* Signals are the program's: none is delivered to our threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    r = engine_start_observers(eng, t, &n);
    if (r >= 0)
        r = engine_start_workers(eng, t, &n);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);

    if (r < 0)
        (void)tbenc_fail(e, r, "cannot start a thread");
    else
        r = engine_consume(eng, RETIRE, eng->p->ops->retire, &failed);
    if (r < 0)
        engine_stop(eng);
    for (unsigned i = 0; i < n; i++)
        pthread_join(t[i].id, NULL);
    if (failed && e)
        *e = failed->error;
    if (r >= 0 && eng->observer_rc < 0)
        r = tbenc_fail(e, eng->observer_rc, "cannot hash: the crypto library refused");
    return r;
}

int tbenc_engine_run(const struct tbenc_engine_params *p, struct tbenc_error *e)
{
    struct tbenc_engine eng = {.p = p, .end = UINT64_MAX};
    int r;

    pthread_mutex_init(&eng.filling, NULL);
    pthread_mutex_init(&eng.lock, NULL);
    pthread_cond_init(&eng.freed, NULL);
    pthread_cond_init(&eng.done, NULL);
    r = ring_alloc(&eng);
    if (r < 0)
        (void)tbenc_fail(e, r, "out of memory for buffers of %zu bytes: use smaller chunks or fewer threads",
                         (eng.ct_size + eng.pt_size) * eng.n_ring);
    else
        r = engine_run_threads(&eng, e);
    ring_free(&eng);
    pthread_cond_destroy(&eng.done);
    pthread_cond_destroy(&eng.freed);
    pthread_mutex_destroy(&eng.lock);
    pthread_mutex_destroy(&eng.filling);
    return r;
}
