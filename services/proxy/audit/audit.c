/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/audit/audit.h"

#include <assert.h>
#include <pthread.h>
#include <string.h>

#include "common/chain_head.h"
#include "common/hex.h"
#include "common/log.h"
#include "common/units.h"
#include "proxy/audit/state.h"

/* A disk that is behind by as many records counts as a full queue. */
#define UNSYNCED_MIN 1024UL

static int audit_open_files(struct tb_audit *a, const struct tb_audit_config *c)
{
    bool set_aside = false;
    int r = tb_audit_sink_open(&a->sink, c->contract_id, c->asset_id, c->file, c->journal);

    if (r >= 0)
        r = tb_chain_head_open(c->head_file, &a->head_file, &set_aside);
    if (r >= 0 && c->head_file) {
        a->head_path = strdup(c->head_file);
        r = a->head_path ? 0 : -ENOMEM;
    }
    if (r >= 0 && set_aside)
        tb_warn("audit: %s was damaged and is set aside; the chain goes on from the end of %s", c->head_file,
                tb_audit_sink_name(&a->sink));
    return r < 0 ? r : tb_audit_recover(a);
}

static void audit_free(struct tb_audit *a)
{
    tb_audit_free_records(a->spare);
    tb_audit_free_records(a->written_records);
    tb_refusals_clear(&a->refusals);
    tb_audit_sink_close(&a->sink);
    tb_chain_head_close(a->head_file);
    free(a->head_path);
    free(a);
}

int tb_audit_open(const struct tb_audit_config *c, struct tb_audit **ret)
{
    struct tb_audit *a = calloc(1, sizeof(*a));
    pthread_condattr_t attr;
    int r;

    if (!a)
        return -ENOMEM;
    a->limit = c->queue;
    a->tail = &a->head;
    r = audit_open_files(a, c);
    if (r < 0) {
        audit_free(a);
        return r;
    }
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->wake, &attr);
    pthread_cond_init(&a->sync_wake, &attr);
    pthread_condattr_destroy(&attr);
    r = pthread_create(&a->thread, NULL, tb_audit_write_thread, a);
    if (r > 0) {
        audit_free(a);
        return -r;
    }
    r = pthread_create(&a->sync_thread, NULL, tb_audit_sync_thread, a);
    if (r > 0)
        return -r; /* the process is about to end */
    *ret = a;
    return 0;
}

/* The one judgement of whether a record can be taken; NULL when it can. On the lock. */
static const char *audit_obstacle(const struct tb_audit *a)
{
    if (a->broken || a->sync_broken)
        return a->trouble;
    if (a->barred[0])
        return a->barred;
    if (a->slots >= a->limit)
        return "audit_unavailable: too many records wait to be written";
    /* A disk that does not come to an end with syncing counts as a full queue. */
    if (a->reported.seq - a->synced >= MAX(a->limit, UNSYNCED_MIN))
        return "audit_unavailable: the disk is behind with syncing records";
    return NULL;
}

bool tb_audit_trouble(struct tb_audit *a, char out[static TB_AUDIT_TROUBLE_MAX])
{
    const char *why;

    pthread_mutex_lock(&a->lock);
    why = audit_obstacle(a);
    snprintf(out, TB_AUDIT_TROUBLE_MAX, "%s", why ? why : "");
    pthread_mutex_unlock(&a->lock);
    return why;
}

void tb_audit_bar(struct tb_audit *a, const char *why)
{
    pthread_mutex_lock(&a->lock);
    snprintf(a->barred, sizeof(a->barred), "%s", why);
    pthread_mutex_unlock(&a->lock);
}

enum tb_admission tb_audit_admit(struct tb_audit *a)
{
    enum tb_admission r;

    pthread_mutex_lock(&a->lock);
    if (a->slots >= 2 * a->limit) {
        a->dropped++;
        r = TB_ADMIT_DROP;
    } else {
        r = audit_obstacle(a) ? TB_ADMIT_REFUSE : TB_ADMIT;
        a->refused += r == TB_ADMIT_REFUSE;
        a->slots++;
        tb_audit_note_open(a);
    }
    pthread_mutex_unlock(&a->lock);
    return r;
}

/* Records go round between two threads; the allocator would take its lock for each, twice. */
struct tb_audit_record *tb_audit_record_new(struct tb_audit *a)
{
    struct tb_audit_record *r;

    if (!a->spare) {
        pthread_mutex_lock(&a->lock);
        a->spare = a->written_records;
        a->written_records = NULL;
        a->n_written_records = 0;
        pthread_mutex_unlock(&a->lock);
    }
    r = a->spare;
    if (!r)
        return calloc(1, sizeof(*r));
    a->spare = r->next;
    free(r->report);
    memset(r, 0, sizeof(*r));
    return r;
}

void tb_audit_submit(struct tb_audit *a, struct tb_audit_record *r)
{
    pthread_mutex_lock(&a->lock);
    assert(a->slots > 0);
    r->next = NULL;
    if (r->unidentified && !tb_refusals_add(&a->refusals, r, tb_now_monotonic_us())) {
        if (a->gathered == 0)
            pthread_cond_signal(&a->wake); /* the writer learns when it is due */
        a->slots--;
        a->gathered++;
        a->aggregated++;
        tb_audit_note_open(a);
    } else {
        *a->tail = r;
        a->tail = &r->next;
        if (++a->queued == (a->gathering ? TB_AUDIT_GATHER : 1))
            pthread_cond_signal(&a->wake);
    }
    pthread_mutex_unlock(&a->lock);
}

void tb_audit_reopen(struct tb_audit *a)
{
    pthread_mutex_lock(&a->lock);
    a->reopen = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

uint64_t tb_audit_keep(struct tb_audit *a, int *ret_error)
{
    bool removed = tb_audit_sink_is_removed(&a->sink), in_place;
    uint64_t n;

    pthread_mutex_lock(&a->lock);
    in_place = !a->head_path || tb_chain_head_in_place(a->head_file, a->head_path);
    if (in_place)
        a->head_error = 0;
    if (removed || !in_place) {
        a->reopen = true; /* the writer sees to it */
        pthread_cond_signal(&a->wake);
    }
    n = a->made_again;
    *ret_error = a->head_error;
    pthread_mutex_unlock(&a->lock);
    return n;
}

static bool audit_join_within(pthread_t thread, unsigned timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_MONOTONIC, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (deadline.tv_nsec >= 1000000000L) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000L;
    }
    return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &deadline) == 0;
}

static void audit_set_and_wake(struct tb_audit *a, bool *flag)
{
    pthread_mutex_lock(&a->lock);
    *flag = true;
    pthread_cond_signal(&a->wake);
    pthread_cond_signal(&a->sync_wake);
    pthread_mutex_unlock(&a->lock);
}

/* Lets a thread come to its end, and after timeout_ms without it. */
static bool audit_join_or_give_up(struct tb_audit *a, pthread_t thread, unsigned timeout_ms)
{
    if (audit_join_within(thread, timeout_ms))
        return true;
    audit_set_and_wake(a, &a->give_up);
    return audit_join_within(thread, 1000);
}

size_t tb_audit_close(struct tb_audit *a, unsigned timeout_ms)
{
    size_t left;
    bool joined;

    audit_set_and_wake(a, &a->stop);
    joined = audit_join_or_give_up(a, a->thread, timeout_ms);
    audit_set_and_wake(a, &a->stop_sync);
    joined = audit_join_or_give_up(a, a->sync_thread, timeout_ms) && joined;
    pthread_mutex_lock(&a->lock);
    left = a->slots + (size_t)a->gathered;
    pthread_mutex_unlock(&a->lock);
    if (joined)
        audit_free(a); /* else a thread hangs in a write to a stopped journald; the process is about to end */
    return left;
}

void tb_audit_get_stats(struct tb_audit *a, struct tb_audit_stats *ret)
{
    pthread_mutex_lock(&a->lock);
    *ret = (struct tb_audit_stats){.written = a->written,
                                   .refused = a->refused,
                                   .dropped = a->dropped,
                                   .aggregated = a->aggregated,
                                   .unsynced = a->reported.seq - a->synced,
                                   .slots = a->slots,
                                   .limit = a->limit,
                                   .broken = a->broken || a->sync_broken || a->barred[0],
                                   .seq = a->reported.seq};
    tb_hex_encode(a->reported.hash, sizeof(a->reported.hash), ret->head);
    pthread_mutex_unlock(&a->lock);
}
