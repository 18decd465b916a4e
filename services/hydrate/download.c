/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/download.h"

#include <string.h>

#include "common/log.h"
#include "common/units.h"
#include "hydrate/download_state.h"

#define POLL_MS 500

static void download_lock(struct download_state *x)
{
    pthread_mutex_lock(&x->lock);
}

static void download_unlock(struct download_state *x)
{
    pthread_mutex_unlock(&x->lock);
}

/* -- a thread -------------------------------------------------------------------------------------------- */
static int worker_timeout_ms(const struct download_worker *w, uint64_t now_us)
{
    const struct download_state *x = w->x;
    uint64_t until = now_us + POLL_MS * 1000;

    if (x->drain_us)
        until = MIN(until, x->drain_us);
    for (unsigned i = 0; i < w->n_slots; i++)
        if (w->slots[i].state == SLOT_WAITING && x->drain_us == 0)
            until = MIN(until, w->slots[i].due_us);
    return until <= now_us ? 0 : (int)((until - now_us + 999) / 1000);
}

static void worker_collect(struct download_worker *w)
{
    CURLMsg *msg;
    int left;

    while ((msg = curl_multi_info_read(w->multi, &left))) {
        CURLcode code = msg->data.result;
        struct transfer *t;

        curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&t);
        slot_finish(w->x, container_of(t, struct download_slot, t), code);
    }
}

static bool download_is_busy(const struct download_state *x)
{
    for (unsigned i = 0; i < x->n_slots; i++)
        if (x->slots[i].state == SLOT_RUNNING || (x->slots[i].state == SLOT_WAITING && x->drain_us == 0))
            return true;
    return false;
}

/* There is nothing to do, and nothing was for long enough. The first thread alone says so, when it has looked
 * for something itself. */
static bool download_is_done(struct download_state *x, uint64_t now_us)
{
    if (download_is_busy(x)) {
        x->idle_us = 0;
        return false;
    }
    if (x->idle_us == 0)
        x->idle_us = now_us;
    return x->drain_us != 0 || now_us - x->idle_us >= x->d->linger_ms * 1000ULL;
}

/* What follows from what was transferred. false: the download is over. */
static bool worker_turn(struct download_worker *w, int *ret_timeout_ms)
{
    struct download_state *x = w->x;
    bool first = w == x->workers, was_busy;
    uint64_t now;

    was_busy = download_is_busy(x);
    worker_collect(w);
    for (unsigned i = 0; i < w->n_slots; i++)
        slot_mark(x, &w->slots[i]);
    if (first) {
        slot_identify_early(x, x->slots);
        if (wishes_refresh(&x->wishes, x->id))
            download_wake(x);
    }
    now = tb_now_monotonic_us();
    for (unsigned i = 0; i < w->n_slots; i++)
        slot_advance(x, &w->slots[i], now);
    if ((x->drain_us && now >= x->drain_us) || (first && download_is_done(x, now)))
        x->over = true;
    if (x->over || (was_busy && !download_is_busy(x)))
        download_wake(x);
    *ret_timeout_ms = worker_timeout_ms(w, now);
    return !x->over;
}

static bool worker_step(struct download_worker *w, struct curl_waitfd *fds, unsigned n_fds)
{
    CURLMcode code;
    int running, timeout_ms = 0;
    bool goes_on;

    code = curl_multi_perform(w->multi, &running);
    download_lock(w->x);
    if (code != CURLM_OK)
        download_give_up(w->x, true, TB_EXIT_IOERR, "libcurl failed");
    goes_on = worker_turn(w, &timeout_ms);
    download_unlock(w->x);
    if (goes_on)
        curl_multi_poll(w->multi, fds, n_fds, timeout_ms, NULL);
    return goes_on;
}

static void *download_thread(void *arg)
{
    while (worker_step(arg, NULL, 0))
        ;
    return NULL;
}

/* -- the first thread ------------------------------------------------------------------------------------ */
static uint64_t download_bytes(const struct download_state *x)
{
    uint64_t n = partial_ranges(x->d->partial)->bytes;

    for (unsigned i = 0; i < x->n_slots; i++)
        if (x->slots[i].state != SLOT_IDLE && !x->slots[i].repair)
            n += x->slots[i].t.got;
    return n;
}

/* With what is on its way: else it would seem to come from the storage. */
static uint64_t download_mirror_bytes(const struct download_state *x)
{
    uint64_t n = x->d->mirror ? x->d->mirror->bytes : 0;

    for (unsigned i = 0; i < x->n_slots; i++) {
        const struct download_slot *s = &x->slots[i];

        if (s->state == SLOT_RUNNING && s->t.mirror)
            n += s->t.start + s->t.got - MAX(s->t.start, s->had);
    }
    return n;
}

/* Without the lock, as files are written. */
static void download_report(struct download_state *x, struct tb_outcome *o)
{
    struct download_progress p;

    download_lock(x);
    p = (struct download_progress){.bytes = download_bytes(x),
                                   .mirror_bytes = download_mirror_bytes(x),
                                   .mirror = x->d->mirror ? mirror_state(x->d->mirror) : NULL,
                                   .begun = ranges_has(partial_ranges(x->d->partial), 0)};
    download_unlock(x);
    if (x->d->progress(x->d->ctx, &p) == 0)
        return;
    download_lock(x);
    download_give_up(x, true, o->code, "%s", o->reason);
    download_unlock(x);
}

static void download_loop(struct download_state *x, struct tb_outcome *o)
{
    struct curl_waitfd fds[] = {{.fd = x->d->stop_fd, .events = CURL_WAIT_POLLIN},
                                {.fd = x->wishes.fd, .events = CURL_WAIT_POLLIN}};

    while (worker_step(&x->workers[0], fds, x->wishes.fd >= 0 ? 2 : 1)) {
        x->wishes.ready |= fds[1].revents != 0; /* this thread alone looks at them */
        if (fds[0].revents) {
            download_lock(x);
            download_give_up(x, true, HYDRATE_STOPPED,
                             "stopped by a signal; progress is kept, the next start goes on");
            download_unlock(x);
        } else {
            download_report(x, o);
        }
    }
}

static void download_clear(struct download_state *x)
{
    for (unsigned i = 0; x->slots && i < x->n_slots; i++) {
        if (x->slots[i].state == SLOT_RUNNING)
            curl_multi_remove_handle(x->slots[i].multi, x->slots[i].t.easy);
        transfer_clear(&x->slots[i].t);
    }
    free(x->slots);
    wishes_clear(&x->wishes);
    for (unsigned i = 0; i < x->n_workers; i++)
        if (x->workers[i].multi)
            curl_multi_cleanup(x->workers[i].multi);
    pthread_mutex_destroy(&x->lock);
}

static int worker_init(struct download_worker *w)
{
    w->multi = curl_multi_init();
    if (!w->multi)
        return -ENOMEM;
    curl_multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)w->n_slots);
    for (unsigned i = 0; i < w->n_slots; i++) {
        struct download_slot *s = &w->slots[i];

        if (transfer_init(&s->t, w->x->d->tls) < 0)
            return -ENOMEM;
        s->multi = w->multi;
        s->t.fd = partial_fd(w->x->d->partial);
        s->t.size = w->x->id->size;
        s->t.unit = w->x->id->chunk;
    }
    return 0;
}

static int download_init(struct download_state *x)
{
    x->n_slots += x->d->run_dir ? DOWNLOAD_URGENT : 0;
    x->slots = calloc(x->n_slots, sizeof(*x->slots));
    if (!x->slots)
        return -ENOMEM;
    for (unsigned i = 1; x->d->run_dir && i <= DOWNLOAD_URGENT; i++)
        x->slots[x->n_slots - i].urgent = true;
    x->slots[x->n_slots - 1].mends = x->d->run_dir != NULL;
    for (unsigned i = 0; i < x->n_workers; i++) {
        struct download_worker *w = &x->workers[i];
        unsigned begin = i * x->n_slots / x->n_workers, end = (i + 1) * x->n_slots / x->n_workers;

        *w = (struct download_worker){.x = x, .slots = &x->slots[begin], .n_slots = end - begin};
        if (worker_init(w) < 0)
            return -ENOMEM;
    }
    wishes_init(&x->wishes, x->d->run_dir);
    return 0;
}

/* A thread that cannot be had leaves its connections unused. */
static void download_start_threads(struct download_state *x)
{
    for (unsigned i = 1; i < x->n_workers; i++) {
        struct download_worker *w = &x->workers[i];
        int r = pthread_create(&w->thread, NULL, download_thread, w);

        w->joinable = r == 0;
        if (r != 0)
            tb_warn("downloading with %u of %u threads: %s", i, x->n_workers, strerror(r));
        if (r != 0)
            return;
    }
}

int download_run(const struct download *d, struct tb_outcome *o)
{
    struct download_state x = {
        .d = d, .n_slots = MAX(d->connections, 1U), .lock = PTHREAD_MUTEX_INITIALIZER, .wishes = {.fd = -1}};

    x.n_workers = MIN(MIN(MAX(d->threads, 1U), x.n_slots), (unsigned)DOWNLOAD_THREADS_MAX);
    x.id = partial_identity(d->partial);
    /* of several places each has a tag of its own, and no record is to wait for another */
    x.identified = *x.id->etag != '\0' || (d->linger_ms > 0 && d->n_others > 0);
    tb_url_redact(d->url, x.where, sizeof(x.where));
    o->code = 0;
    if (d->hasher)
        hasher_advance(d->hasher, ranges_prefix_bytes(partial_ranges(d->partial)));
    if (download_init(&x) < 0) {
        download_clear(&x);
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory for %u transfers", x.n_slots);
    }
    download_start_threads(&x);
    download_loop(&x, o);
    for (unsigned i = 1; i < x.n_workers; i++)
        if (x.workers[i].joinable)
            pthread_join(x.workers[i].thread, NULL);
    download_clear(&x);
    *o = x.outcome;
    return o->code;
}
