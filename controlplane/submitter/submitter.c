/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/submitter/submitter.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "controlplane/api/metrics.h"
#include "controlplane/submitter/ledger.h"
#include "controlplane/submitter/tell.h"

struct cp_submitter {
    const struct cp_place *place;
    struct cp_submitter_settings set;
    struct cp_marketplace marketplace;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool stopping;
    /* the thread's own */
    struct cp_store *s;
    struct cp_submitter_ledger ledger;
    struct tb_metering_schedule schedule;
    struct cp_submitter_said said;
    char owner[CP_OWNER_MAX];
    bool active, failed;
};

static bool submitter_stopping(const struct cp_submitter *b)
{
    return __atomic_load_n(&b->stopping, __ATOMIC_ACQUIRE);
}

/* -- sending ----------------------------------------------------------------------------------- */
static int submitter_post(struct cp_submitter *b, const char *body, char *err)
{
    _cleanup_http_response_ struct tb_http_response rs = {0};
    struct tb_metering_result x = {.retry_after_ms = -1};
    char why[TB_HTTP_ERR_MAX];
    struct tb_metering_answer answer;
    int r = cp_marketplace_post(&b->marketplace, body, b->schedule.batch.request_id, &rs, &x.reached, why);

    x.answered = r == 0;
    x.reason = why;
    x.status = rs.status;
    x.body = rs.body ? rs.body : "";
    x.len = rs.len;
    if (r == 0)
        x.retry_after_ms = rs.retry_after_ms;
    r = tb_metering_schedule_answer(&b->schedule, &x, tb_now_realtime_us(), tb_now_boottime_us(), &answer,
                                    err);
    if (r < 0)
        return r;
    if (answer.token)
        cp_marketplace_drop_token(&b->marketplace);
    cp_submitter_tell_answer(&b->said, &b->schedule.batch, &answer);
    return 0;
}

/* false: not now. Nothing is taken out of the ledger before. */
static bool submitter_has_token(struct cp_submitter *b)
{
    char err[CP_MARKETPLACE_ERR_MAX];

    if (cp_marketplace_authenticate(&b->marketplace, err) == 0)
        return true;
    cp_submitter_tell_transient(&b->said, err);
    tb_metering_schedule_postpone(&b->schedule, tb_now_boottime_us(), -1);
    return false;
}

static int submitter_send(struct cp_submitter *b, char *err)
{
    bool due;
    int r = tb_metering_schedule_due(&b->schedule, tb_now_realtime_us(), tb_now_boottime_us(), &due, err);

    while (r == 0 && due && !submitter_stopping(b)) {
        _cleanup_free_ char *body = NULL;

        if (!submitter_has_token(b))
            return 0;
        r = tb_metering_schedule_next(&b->schedule, tb_now_realtime_us(), tb_now_boottime_us(), &body, err);
        if (r < 0 || !body)
            return r;
        r = submitter_post(b, body, err);
    }
    return r;
}

/* -- a pass ------------------------------------------------------------------------------------ */
static int submitter_begin_term(struct cp_store *s, void *ctx)
{
    struct cp_submitter *b = ctx;

    return cp_store_begin_term(s, b->owner, tb_now_realtime_us(), &b->ledger.term);
}

/* 1: this server is the one. */
static int submitter_lead(struct cp_submitter *b, char *err)
{
    int r = cp_store_lock_submitter(b->s);

    if (r > 0 && !b->active) {
        r = cp_store_transact(b->s, submitter_begin_term, b);
        if (r == 0) {
            b->ledger.s = b->s;
            tb_metering_schedule_init(&b->schedule, cp_submitter_ledger(&b->ledger));
            b->active = true;
            tb_info("submitter: this server reports usage to the marketplace from now on (term %llu)",
                    (unsigned long long)b->ledger.term);
            r = 1;
        }
    } else if (r == 0 && b->active) {
        b->active = false;
        tb_warn("submitter: another server has taken over");
    }
    if (r < 0)
        snprintf(err, TB_METERING_ERR_MAX, "%.200s", cp_store_error(b->s));
    return r;
}

static int submitter_work(struct cp_submitter *b, char *err)
{
    struct cp_billing_summary sum;
    uint64_t booked;
    unsigned moved = 0;
    int r = cp_submitter_book(&b->ledger, tb_now_realtime_us(), &booked, err);

    if (r == 0)
        r = cp_submitter_advance(&b->ledger, tb_now_realtime_us(), b->set.grace_us, &moved, err);
    if (moved > 0)
        tb_warn("submitter: %u events could not be sent in time; their usage goes into the open hour", moved);
    if (r == 0)
        r = submitter_send(b, err);
    if (r == 0) {
        r = cp_store_summarise_billing(b->s, &sum);
        if (r < 0)
            snprintf(err, TB_METERING_ERR_MAX, "%.200s", cp_store_error(b->s));
        else
            cp_submitter_tell_summary(&b->said, &sum, tb_now_realtime_us());
    }
    return r;
}

static void submitter_pass(struct cp_submitter *b)
{
    char err[MAX(TB_METERING_ERR_MAX, CP_ERR_MAX)] = "";
    int r = b->s ? 0 : cp_data_open_store(b->place, &b->s, err);

    if (r == 0)
        r = submitter_lead(b, err);
    if (r > 0)
        r = submitter_work(b, err);
    if (r == -ESTALE) {
        b->active = false;
        tb_warn("submitter: another server has taken over");
    } else if (r < 0 && !b->failed) {
        tb_error("submitter: %s; tried again every %llu s", err,
                 (unsigned long long)(b->set.interval_us / TB_USEC_PER_SEC));
    }
    b->failed = r < 0 && r != -ESTALE;
    for (int g = 0; !b->active && g < _CP_GAUGE_MAX; g++) /* they are the other's to show */
        cp_gauge_set((enum cp_gauge)g, 0);
    cp_gauge_set(CP_GAUGE_SUBMITTER_ACTIVE, b->active);
}

/* false: stop. After a bad answer it may be longer, which the schedule sees to. */
static bool submitter_wait(struct cp_submitter *b)
{
    struct timespec until;
    bool stop;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(b->set.interval_us / TB_USEC_PER_SEC);
    pthread_mutex_lock(&b->lock);
    while (!b->stopping)
        if (pthread_cond_timedwait(&b->wake, &b->lock, &until) != 0)
            break;
    stop = b->stopping;
    pthread_mutex_unlock(&b->lock);
    return !stop;
}

static void *submitter_run(void *arg)
{
    struct cp_submitter *b = arg;

    do
        submitter_pass(b);
    while (submitter_wait(b));
    b->s = cp_store_close(b->s); /* and the lock with it */
    return NULL;
}

int cp_submitter_start(const struct cp_place *place, const struct cp_submitter_settings *s,
                       struct cp_submitter **ret, char err[static CP_MARKETPLACE_ERR_MAX])
{
    struct cp_submitter *b = calloc(1, sizeof(*b));
    pthread_condattr_t monotonic;
    char host[64] = "";
    int r;

    snprintf(err, CP_MARKETPLACE_ERR_MAX, "out of memory");
    if (!b)
        return -ENOMEM;
    b->place = place;
    b->set = *s;
    (void)gethostname(host, sizeof(host) - 1);
    snprintf(b->owner, sizeof(b->owner), "%s/%ld", host, (long)getpid());
    r = cp_marketplace_init(&b->marketplace, &s->marketplace, err);
    if (r < 0) {
        free(b);
        return r;
    }
    pthread_mutex_init(&b->lock, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&b->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    r = -pthread_create(&b->thread, NULL, submitter_run, b);
    if (r < 0) {
        snprintf(err, CP_MARKETPLACE_ERR_MAX, "cannot start a thread: %s", strerror(-r));
        free(b);
        return r;
    }
    *ret = b;
    return 0;
}

struct cp_submitter *cp_submitter_stop(struct cp_submitter *b)
{
    if (!b)
        return NULL;
    pthread_mutex_lock(&b->lock);
    __atomic_store_n(&b->stopping, true, __ATOMIC_RELEASE);
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
    pthread_join(b->thread, NULL);
    cp_marketplace_clear(&b->marketplace);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->wake);
    free(b);
    return NULL;
}
