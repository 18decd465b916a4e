/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/http/workers.h"

#include <pthread.h>

struct cp_workers {
    const struct cp_place *place;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct cp_job *first, **last;
    unsigned queued, n_threads;
    bool stopping;
    pthread_t threads[CP_WORKERS_MAX];
};

/* NULL: stop. */
static struct cp_job *workers_take(struct cp_workers *w)
{
    struct cp_job *j;

    pthread_mutex_lock(&w->lock);
    while (!w->first && !w->stopping)
        pthread_cond_wait(&w->work, &w->lock);
    j = w->first;
    if (j) {
        w->first = j->next;
        if (!w->first)
            w->last = &w->first;
        w->queued--;
    }
    pthread_mutex_unlock(&w->lock);
    return j;
}

static void *workers_run(void *arg)
{
    struct cp_workers *w = arg;
    _cleanup_store_ struct cp_store *s = NULL;
    struct cp_job *j;

    while ((j = workers_take(w))) {
        char err[CP_ERR_MAX] = "";

        if (!s && cp_data_open_store(w->place, &s, err) < 0)
            s = NULL;
        j->run(j, s, err);
    }
    return NULL;
}

int cp_workers_start(const struct cp_place *place, unsigned n, struct cp_workers **ret)
{
    struct cp_workers *w = calloc(1, sizeof(*w));
    int r = 0;

    if (!w)
        return -ENOMEM;
    w->place = place;
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    for (; r == 0 && w->n_threads < MIN(n, (unsigned)CP_WORKERS_MAX); w->n_threads += r == 0)
        r = -pthread_create(&w->threads[w->n_threads], NULL, workers_run, w);
    if (r < 0)
        w = cp_workers_stop(w);
    *ret = w;
    return r;
}

bool cp_workers_give(struct cp_workers *w, struct cp_job *j)
{
    bool taken;

    pthread_mutex_lock(&w->lock);
    taken = !w->stopping && w->queued < CP_JOBS_MAX;
    if (taken) {
        j->next = NULL;
        *w->last = j;
        w->last = &j->next;
        w->queued++;
        pthread_cond_signal(&w->work);
    }
    pthread_mutex_unlock(&w->lock);
    return taken;
}

struct cp_workers *cp_workers_stop(struct cp_workers *w)
{
    if (!w)
        return NULL;
    pthread_mutex_lock(&w->lock);
    w->stopping = true;
    pthread_cond_broadcast(&w->work);
    pthread_mutex_unlock(&w->lock);
    for (unsigned i = 0; i < w->n_threads; i++)
        pthread_join(w->threads[i], NULL);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->work);
    free(w);
    return NULL;
}
