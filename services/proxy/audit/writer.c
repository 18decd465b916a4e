/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/chain_head.h"
#include "common/events.h"
#include "common/hex.h"
#include "common/log.h"
#include "common/units.h"
#include "proxy/audit/state.h"

#define GATHER_MS 50
#define SYNC_PAUSE_MS 50
#define RETRY_MS 250
#define RECORDS_KEPT 512 /* for the next requests; no more are added from then on */
/* Written together. Fewer when there is the journal as well: a kill may leave it as many behind the file. */
#define BATCH_MAX 1024
#define BATCH_MAX_BOTH 64

/* --- the chain, on the writer's thread ------------------------------------------------------------------ */

struct audit_batch {
    struct tb_audit_record *record[BATCH_MAX];
    size_t n, end[BATCH_MAX]; /* end of each line, behind its line end */
    struct tb_buf lines;
};

/* The next line of the chain. What an unclean stop left unsaid is said by the first. */
static int writer_format(struct tb_audit *a, struct tb_audit_record *r, bool first, struct tb_buf *out)
{
    size_t start = out->len;
    int e;

    tb_chain_head_get_stop(a->head_file, &r->lost_max, &r->unsure);
    r->seq = a->at.seq + 1;
    r->after_stop = first && (r->lost_max > 0 || r->unsure > 0);
    tb_hex_encode(a->at.hash, sizeof(a->at.hash), r->prev);
    e = tb_audit_format(r, a->sink.contract_id, a->sink.asset_id, out);
    if (e >= 0)
        e = tb_chain_hash(out->data + start, out->len - start, a->at.hash);
    if (e < 0)
        return e;
    a->at.seq = r->seq;
    return tb_buf_append(out, "\n", 1);
}

/* Moves up to max records into the batch. */
static int writer_fill_batch(struct tb_audit *a, struct audit_batch *b, struct tb_audit_record **queue,
                             size_t max)
{
    b->n = 0;
    tb_buf_clear(&b->lines);
    while (*queue && b->n < max) {
        struct tb_audit_record *r = *queue;
        int e = writer_format(a, r, b->n == 0, &b->lines);

        if (e < 0)
            return e;
        b->end[b->n] = b->lines.len;
        b->record[b->n++] = r;
        *queue = r->next;
    }
    return 0;
}

/* --- the writer ----------------------------------------------------------------------------------------- */

static void audit_set_broken(struct tb_audit *a, bool *flag, const char *where, int error)
{
    bool was;

    pthread_mutex_lock(&a->lock);
    was = *flag;
    *flag = error < 0;
    if (error < 0)
        snprintf(a->trouble, sizeof(a->trouble), "audit_unavailable: %s cannot be written: %s", where,
                 strerror(-error));
    pthread_mutex_unlock(&a->lock);
    if (error < 0 && !was)
        tb_log_full(TB_LOG_ERR, TB_EVENT_AUDIT_BROKEN, NULL,
                    "audit: cannot write to %s: %s; requests are refused until it works again", where,
                    strerror(-error));
    else if (error >= 0 && was)
        tb_info("audit: writing works again");
}

static void writer_reopen(struct tb_audit *a)
{
    bool removed = tb_audit_sink_is_removed(&a->sink);
    int r = tb_audit_sink_reopen(&a->sink);

    if (r < 0)
        tb_error("audit: cannot open %s again: %s; still writing to the old file", a->sink.file,
                 strerror(-r));
    if (r < 0 || !removed)
        return;
    tb_warn("audit: %s was removed, and its records with it; the chain goes on in a new file", a->sink.file);
    pthread_mutex_lock(&a->lock);
    a->made_again++;
    pthread_mutex_unlock(&a->lock);
}

/* Between two batches, and on the lock: nobody else sets anything in the head but how far it was synced,
 * which may then be a step behind. */
static void writer_keep_head(struct tb_audit *a)
{
    int r;

    if (!a->head_path)
        return;
    pthread_mutex_lock(&a->lock);
    r = tb_chain_head_keep(a->head_file, a->head_path);
    a->made_again += r > 0;
    a->head_error = MIN(r, 0);
    pthread_mutex_unlock(&a->lock);
    if (r > 0)
        tb_warn("audit: %s was removed or replaced; it is written again", a->head_path);
}

/* Waits before trying again, on the lock; false when it is time to give up. */
static bool audit_wait_retry_locked(struct tb_audit *a, pthread_cond_t *wake)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    if (!a->give_up)
        pthread_cond_timedwait(wake, &a->lock, &until);
    return !a->give_up;
}

static bool writer_wait_retry(struct tb_audit *a)
{
    bool go_on;

    pthread_mutex_lock(&a->lock);
    go_on = audit_wait_retry_locked(a, &a->wake);
    pthread_mutex_unlock(&a->lock);
    return go_on;
}

static int writer_send(struct tb_audit *a, const struct audit_batch *b, size_t i)
{
    size_t start = i == 0 ? 0 : b->end[i - 1];

    return tb_audit_sink_journal(&a->sink, b->record[i], b->lines.data + start, b->end[i] - 1 - start);
}

/* Tries until it works, or until it is time to give up: then false. i: a record for the journal, or -1:
 * all for the file. */
static bool writer_insist(struct tb_audit *a, const struct audit_batch *b, ssize_t i)
{
    for (;;) {
        int e = i < 0 ? tb_audit_sink_append(&a->sink, b->lines.data, b->lines.len)
                      : writer_send(a, b, (size_t)i);

        if (e == -EINTR || (i >= 0 && e == -EAGAIN))
            continue;
        audit_set_broken(a, &a->broken, i < 0 ? tb_audit_sink_name(&a->sink) : "the journal", e);
        if (e >= 0)
            return true;
        if (!writer_wait_retry(a))
            return false;
    }
}

static bool writer_write_batch(struct tb_audit *a, const struct audit_batch *b)
{
    tb_chain_head_begin(a->head_file, &a->at);
    if (!writer_insist(a, b, -1))
        return false;
    if (a->sink.journal && a->sink.fd < 0 && !writer_insist(a, b, 0))
        return false;
    tb_chain_head_commit(a->head_file);
    tb_chain_head_set_stop(a->head_file, 0, 0);
    for (size_t i = a->sink.fd < 0; a->sink.journal && i < b->n; i++) {
        if (!writer_insist(a, b, (ssize_t)i))
            return false;
        tb_chain_head_set_journal(a->head_file, b->record[i]->seq);
    }
    return true;
}

static void writer_settle(struct tb_audit *a, const struct audit_batch *b)
{
    struct tb_audit_record *done = b->record[0];
    uint64_t requests = 0;
    size_t slots = 0;

    for (size_t i = 0; i < b->n; i++) {
        requests += b->record[i]->count;
        slots += b->record[i]->count == 0;
        b->record[i]->next = i + 1 < b->n ? b->record[i + 1] : NULL;
    }
    if (!a->sink.journal || a->sink.fd < 0) /* one sink: the head says it all */
        tb_chain_head_set_journal(a->head_file, a->at.seq);
    pthread_mutex_lock(&a->lock);
    assert(a->slots >= slots && a->gathered >= requests);
    a->slots -= slots;
    a->gathered -= requests;
    a->written += b->n;
    a->reported = a->at;
    tb_audit_note_open(a);
    if (a->n_written_records < RECORDS_KEPT) {
        b->record[b->n - 1]->next = a->written_records;
        a->written_records = b->record[0];
        a->n_written_records += b->n;
        done = NULL;
    }
    pthread_cond_signal(&a->sync_wake);
    pthread_mutex_unlock(&a->lock);
    tb_audit_free_records(done);
}

/* On the lock: waits until woken or due. False: it is due. */
static bool writer_wait(struct tb_audit *a, uint64_t due_us)
{
    struct timespec until = {.tv_sec = (time_t)(due_us / TB_USEC_PER_SEC),
                             .tv_nsec = (long)(due_us % TB_USEC_PER_SEC * 1000)};

    if (due_us == UINT64_MAX)
        return pthread_cond_wait(&a->wake, &a->lock) == 0;
    return pthread_cond_timedwait(&a->wake, &a->lock, &until) != ETIMEDOUT;
}

/* On the lock: records that come one by one are written together. Waking this thread for each costs more
 * than writing it, and takes a processor from the requests; a long run of writing would as well. */
static void writer_gather(struct tb_audit *a)
{
    uint64_t until = tb_now_monotonic_us() + GATHER_MS * 1000;

    a->gathering = true;
    while (a->queued < TB_AUDIT_GATHER && !a->stop && !a->reopen && writer_wait(a, until))
        ;
    a->gathering = false;
}

/* On the lock: appends refusals that are due, all of them when the audit is being closed, to the queue. */
static void writer_take_refusals(struct tb_audit *a)
{
    struct tb_audit_record *r;

    while ((r = tb_refusals_take(&a->refusals, tb_now_monotonic_us(), a->stop))) {
        r->next = NULL;
        *a->tail = r;
        a->tail = &r->next;
        a->queued++;
    }
}

/* Waits for records; takes all of them. NULL when the audit is being closed and nothing is left. */
static struct tb_audit_record *writer_take(struct tb_audit *a, bool *ret_reopen)
{
    struct tb_audit_record *batch;

    pthread_mutex_lock(&a->lock);
    writer_gather(a);
    writer_take_refusals(a);
    while (!a->head && !a->stop && !a->reopen) {
        (void)writer_wait(a, tb_refusals_due_us(&a->refusals));
        writer_take_refusals(a);
    }
    batch = a->head;
    a->head = NULL;
    a->tail = &a->head;
    a->queued = 0;
    *ret_reopen = a->reopen;
    a->reopen = false;
    pthread_mutex_unlock(&a->lock);
    return batch;
}

static bool writer_write_all(struct tb_audit *a, struct tb_audit_record **queue, struct audit_batch *b)
{
    /* To the journal alone records go one by one: that there is one in doubt is all a kill can leave. */
    size_t max = !a->sink.journal ? BATCH_MAX : a->sink.fd < 0 ? 1 : BATCH_MAX_BOTH;

    while (*queue) {
        if (writer_fill_batch(a, b, queue, max) < 0)
            abort(); /* no memory for a record that must exist: start afresh */
        if (!writer_write_batch(a, b))
            return false;
        writer_settle(a, b);
    }
    return true;
}

/* Once a second: a file that was renamed or removed is noticed, and a power failure leaves a head that is
 * not older. */
static void writer_housekeep(struct tb_audit *a)
{
    uint64_t now = tb_now_monotonic_us();

    if (now - a->synced_us < TB_USEC_PER_SEC)
        return;
    a->synced_us = now;
    writer_reopen(a);
    tb_chain_head_sync(a->head_file);
}

void *tb_audit_write_thread(void *arg)
{
    struct tb_audit *a = arg;
    struct audit_batch b = {0};
    bool ok = true, reopen;

    for (;;) {
        struct tb_audit_record *queue = writer_take(a, &reopen);

        if (reopen) {
            writer_reopen(a);
            writer_keep_head(a);
        }
        if (!queue && !reopen)
            break;
        writer_housekeep(a);
        ok = ok && writer_write_all(a, &queue, &b);
        tb_audit_free_records(queue); /* given up */
    }
    if (!ok)
        for (size_t i = 0; i < b.n; i++)
            tb_audit_free_record(b.record[i]);
    tb_buf_free(&b.lines);
    return NULL;
}

/* On a thread of its own: a slow disk then holds records back from a power failure's point of view only,
 * and a kill finds all that were handed in but a moment's in the file. */
void *tb_audit_sync_thread(void *arg)
{
    struct tb_audit *a = arg;
    struct tb_chain_point p;
    int r = 0;

    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (a->reported.seq == a->synced && !a->stop_sync)
            pthread_cond_wait(&a->sync_wake, &a->lock);
        if (a->reported.seq == a->synced || (r < 0 && !audit_wait_retry_locked(a, &a->sync_wake)))
            break;
        p = a->reported;
        pthread_mutex_unlock(&a->lock);
        r = tb_audit_sink_sync(&a->sink);
        audit_set_broken(a, &a->sync_broken, tb_audit_sink_name(&a->sink), r);
        if (r >= 0)
            tb_chain_head_set_synced(a->head_file, &p);
        pthread_mutex_lock(&a->lock);
        if (r >= 0)
            a->synced = p.seq;
        if (!a->stop_sync) { /* syncing without a pause costs as much as serving */
            pthread_mutex_unlock(&a->lock);
            tb_sleep_ms(SYNC_PAUSE_MS);
            pthread_mutex_lock(&a->lock);
        }
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}
