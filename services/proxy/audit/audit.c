/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/audit/audit.h"

#include <pthread.h>
#include <string.h>

#include "proxy/audit/sink.h"
#include "common/chain_head.h"
#include "common/events.h"
#include "common/hex.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/units.h"

#define GATHER_MS 1
#define SYNC_PAUSE_MS 20
#define RETRY_MS 250
/* Written together. Fewer when there is the journal as well: a kill may leave it as many behind the file. */
#define BATCH_MAX 1024
#define BATCH_MAX_BOTH 64
/* How much of the file's end is looked at for the record the chain stands at: more than a power failure leaves unsaid. */
#define UNSYNCED_MIN 1024UL
#define TAIL_MAX (64UL * 1024 * 1024)

struct tb_audit {
    struct tb_audit_sink sink;
    struct tb_chain_head *head_file;
    struct tb_chain_point at; /* the writer's: the last record formatted */
    uint64_t synced_us;       /* the writer's */
    size_t limit;
    pthread_t thread, sync_thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake, sync_wake;
    struct tb_audit_record *head, **tail;
    size_t slots;
    uint64_t written, refused, dropped;
    struct tb_chain_point told; /* the last record written */
    uint64_t synced;            /* number of the last one synced */
    bool broken, sync_broken, stop, stop_sync, give_up, reopen;
};

/* --- the chain, on the writer's thread --------------------------------------------------------------------------- */

struct batch {
    struct tb_audit_record *record[BATCH_MAX];
    size_t n, end[BATCH_MAX]; /* end of each line, behind its line end */
    struct tb_buf lines;
};

/* The next line of the chain. What an unclean stop left unsaid is said by the first. */
static int format_record(struct tb_audit *a, struct tb_audit_record *r, bool first, struct tb_buf *out)
{
    struct tb_chain_state st;
    size_t start = out->len;
    int e;

    tb_chain_head_get(a->head_file, &st);
    r->seq = a->at.seq + 1;
    r->after_stop = first && (st.lost_max > 0 || st.unsure > 0);
    r->lost_max = st.lost_max;
    r->unsure = st.unsure;
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
static int fill_batch(struct tb_audit *a, struct batch *b, struct tb_audit_record **queue, size_t max)
{
    b->n = 0;
    b->lines.len = 0;
    while (*queue && b->n < max) {
        struct tb_audit_record *r = *queue;
        int e = format_record(a, r, b->n == 0, &b->lines);

        if (e < 0)
            return e;
        b->end[b->n] = b->lines.len;
        b->record[b->n++] = r;
        *queue = r->next;
    }
    return 0;
}

/* --- the writer -------------------------------------------------------------------------------------------------- */

static void set_broken(struct tb_audit *a, bool *flag, const char *where, int error)
{
    bool was;

    pthread_mutex_lock(&a->lock);
    was = *flag;
    *flag = error < 0;
    pthread_mutex_unlock(&a->lock);
    if (error < 0 && !was)
        tb_log_full(TB_LOG_ERR, TB_EVENT_AUDIT_BROKEN, NULL,
                    "audit: cannot write to %s: %s; requests are refused until it works again", where,
                    strerror(-error));
    else if (error >= 0 && was)
        tb_info("audit: writing works again");
}

static void do_reopen(struct tb_audit *a)
{
    int r = tb_audit_sink_reopen(&a->sink);

    if (r < 0)
        tb_error("audit: cannot open %s again: %s; still writing to the old file", a->sink.file,
                 strerror(-r));
}

/* Waits before trying again, on the lock; false when it is time to give up. */
static bool wait_retry_locked(struct tb_audit *a, pthread_cond_t *wake)
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

static bool wait_retry(struct tb_audit *a)
{
    bool go_on;

    pthread_mutex_lock(&a->lock);
    go_on = wait_retry_locked(a, &a->wake);
    pthread_mutex_unlock(&a->lock);
    return go_on;
}

static int send_record(struct tb_audit *a, const struct batch *b, size_t i)
{
    size_t start = i == 0 ? 0 : b->end[i - 1];

    return tb_audit_sink_journal(&a->sink, b->record[i], b->lines.data + start, b->end[i] - 1 - start);
}

/* Tries until it works, or until it is time to give up: then false. i: a record for the journal, or -1: all for the file. */
static bool insist(struct tb_audit *a, const struct batch *b, ssize_t i)
{
    for (;;) {
        int e = i < 0 ? tb_audit_sink_append(&a->sink, b->lines.data, b->lines.len)
                      : send_record(a, b, (size_t)i);

        if (e == -EINTR || (i >= 0 && e == -EAGAIN))
            continue;
        set_broken(a, &a->broken, i < 0 ? tb_audit_sink_name(&a->sink) : "the journal", e);
        if (e >= 0)
            return true;
        if (!wait_retry(a))
            return false;
    }
}

static bool write_batch(struct tb_audit *a, const struct batch *b)
{
    tb_chain_head_begin(a->head_file, &a->at);
    if (!insist(a, b, -1))
        return false;
    if (a->sink.journal && a->sink.fd < 0 && !insist(a, b, 0))
        return false;
    tb_chain_head_commit(a->head_file);
    tb_chain_head_set_stop(a->head_file, 0, 0);
    for (size_t i = a->sink.fd < 0; a->sink.journal && i < b->n; i++) {
        if (!insist(a, b, (ssize_t)i))
            return false;
        tb_chain_head_set_journal(a->head_file, b->record[i]->seq);
    }
    return true;
}

static void settle(struct tb_audit *a, const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        tb_audit_record_free(b->record[i]);
    if (!a->sink.journal || a->sink.fd < 0) /* one sink: the head says it all */
        tb_chain_head_set_journal(a->head_file, a->at.seq);
    pthread_mutex_lock(&a->lock);
    a->slots -= b->n;
    a->written += b->n;
    a->told = a->at;
    tb_chain_head_set_slots(a->head_file, a->slots);
    pthread_cond_signal(&a->sync_wake);
    pthread_mutex_unlock(&a->lock);
}

/* Waits for records; takes all of them. NULL when the audit is being closed and nothing is left. */
static struct tb_audit_record *take_batch(struct tb_audit *a, bool *ret_reopen)
{
    struct tb_audit_record *batch;

    /* Records that come one by one are written a few at a time: waking this thread for each costs more than writing it. */
    tb_sleep_ms(GATHER_MS);
    pthread_mutex_lock(&a->lock);
    while (!a->head && !a->stop && !a->reopen)
        pthread_cond_wait(&a->wake, &a->lock);
    batch = a->head;
    a->head = NULL;
    a->tail = &a->head;
    *ret_reopen = a->reopen;
    a->reopen = false;
    pthread_mutex_unlock(&a->lock);
    return batch;
}

static bool write_all(struct tb_audit *a, struct tb_audit_record **queue, struct batch *b)
{
    /* To the journal alone records go one by one: that there is one in doubt is all a kill can leave. */
    size_t max = !a->sink.journal ? BATCH_MAX : a->sink.fd < 0 ? 1 : BATCH_MAX_BOTH;

    while (*queue) {
        if (fill_batch(a, b, queue, max) < 0)
            abort(); /* no memory for a record that must exist: start afresh */
        if (!write_batch(a, b))
            return false;
        settle(a, b);
    }
    return true;
}

/* Once a second: a file that was renamed or removed is noticed, and a power failure leaves a head that is not older. */
static void housekeep(struct tb_audit *a)
{
    uint64_t now = tb_now_monotonic_us();

    if (now - a->synced_us < TB_USEC_PER_SEC)
        return;
    a->synced_us = now;
    do_reopen(a);
    tb_chain_head_sync(a->head_file);
}

static void *writer(void *arg)
{
    struct tb_audit *a = arg;
    struct batch b = {0};
    bool ok = true, reopen;

    for (;;) {
        struct tb_audit_record *queue = take_batch(a, &reopen);

        if (reopen)
            do_reopen(a);
        if (!queue && !reopen)
            break;
        housekeep(a);
        ok = ok && write_all(a, &queue, &b);
        while (queue) { /* given up */
            struct tb_audit_record *next = queue->next;

            tb_audit_record_free(queue);
            queue = next;
        }
    }
    if (!ok)
        for (size_t i = 0; i < b.n; i++)
            tb_audit_record_free(b.record[i]);
    tb_buf_free(&b.lines);
    return NULL;
}

/* On a thread of its own: a slow disk then holds records back from a power failure's point of view only, and a kill finds all
 * that were handed in but a moment's in the file. */
static void *syncer(void *arg)
{
    struct tb_audit *a = arg;
    struct tb_chain_point p;
    int r = 0;

    pthread_mutex_lock(&a->lock);
    for (;;) {
        while (a->told.seq == a->synced && !a->stop_sync)
            pthread_cond_wait(&a->sync_wake, &a->lock);
        if (a->told.seq == a->synced || (r < 0 && !wait_retry_locked(a, &a->sync_wake)))
            break;
        p = a->told;
        pthread_mutex_unlock(&a->lock);
        r = tb_audit_sink_sync(&a->sink);
        set_broken(a, &a->sync_broken, tb_audit_sink_name(&a->sink), r);
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

/* --- opening and closing ----------------------------------------------------------------------------------------- */

/* Where the file's end leads from what was written: *ret_end. >0: there; 0: the file does not say; -errno. */
static int recover_from_file(struct tb_audit *a, const struct tb_chain_state *st,
                             struct tb_chain_point *ret_end)
{
    _cleanup_free_ char *text = NULL;
    size_t len, whole;
    int r = tb_audit_sink_tail(&a->sink, TAIL_MAX, &text, &len), e;

    if (r < 0 || !text)
        return r;
    r = tb_chain_follow(text, len, &st->committed, ret_end, &whole);
    if (r == TB_CHAIN_TAIL_FOREIGN) /* a power failure may have taken what was not synced */
        r = tb_chain_follow(text, len, &st->synced, ret_end, &whole);
    if (r < 0)
        return r;
    if (whole < len) { /* of a line that was being written */
        e = tb_audit_sink_trim(&a->sink, len - whole);
        if (e < 0)
            return e;
    }
    if (r == TB_CHAIN_TAIL_FOREIGN)
        tb_warn("audit: %s does not end with record %llu, the last one written; tb-audit verify tells more",
                a->sink.file, (unsigned long long)st->committed.seq);
    return r == TB_CHAIN_TAIL_LEADS;
}

/* Finds where the chain stands after whatever ended the last writer. The head says it, but for the records that were being written:
 * of these the file knows, and else they count as written and are declared doubtful. */
static int recover(struct tb_audit *a)
{
    struct tb_chain_point end = {0};
    struct tb_chain_state st;
    uint64_t saved = 0;
    int r;

    tb_chain_head_get(a->head_file, &st);
    r = recover_from_file(a, &st, &end);
    if (r < 0)
        return r;
    a->at = r > 0 && end.seq >= st.committed.seq ? end : st.pending;
    if (r == 0) {
        st.unsure = MAX(st.unsure, st.pending.seq - st.committed.seq);
    } else if (end.seq < st.committed.seq) {
        st.unsure = MAX(st.unsure, st.pending.seq - end.seq);
    } else if (end.seq > st.committed.seq) { /* the first of these has declared what there was */
        saved = end.seq - st.committed.seq;
        st.lost_max = st.unsure = 0;
    }
    if (a->sink.journal && st.journal_seq > 0 && st.journal_seq < a->at.seq)
        st.unsure = MAX(st.unsure, a->at.seq - st.journal_seq);
    tb_chain_head_begin(a->head_file, &a->at);
    tb_chain_head_commit(a->head_file);
    tb_chain_head_set_stop(a->head_file, st.lost_max + st.slots - MIN(st.slots, saved), st.unsure);
    tb_chain_head_set_slots(a->head_file, 0);
    a->told = a->at;
    a->synced = a->at.seq;
    return 0;
}

static int open_books(struct tb_audit *a, const struct tb_audit_config *c)
{
    bool set_aside;
    int r = tb_audit_sink_open(&a->sink, c);

    if (r >= 0)
        r = tb_chain_head_open(c->head_file, &a->head_file, &set_aside);
    if (r >= 0 && set_aside)
        tb_warn("audit: %s was damaged and is set aside; the chain goes on from the end of %s", c->head_file,
                tb_audit_sink_name(&a->sink));
    return r < 0 ? r : recover(a);
}

static void audit_free(struct tb_audit *a)
{
    tb_audit_sink_close(&a->sink);
    tb_chain_head_close(a->head_file);
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
    r = open_books(a, c);
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
    r = pthread_create(&a->thread, NULL, writer, a);
    if (r > 0) {
        audit_free(a);
        return -r;
    }
    r = pthread_create(&a->sync_thread, NULL, syncer, a);
    if (r > 0)
        return -r; /* the process is about to end */
    *ret = a;
    return 0;
}

enum tb_admission tb_audit_admit(struct tb_audit *a)
{
    enum tb_admission r;

    pthread_mutex_lock(&a->lock);
    if (a->slots >= 2 * a->limit) {
        a->dropped++;
        r = TB_ADMIT_DROP;
    } else {
        /* A disk that does not come to an end with syncing counts as a full queue. */
        bool full = a->slots >= a->limit || a->told.seq - a->synced >= MAX(a->limit, UNSYNCED_MIN);

        r = a->broken || a->sync_broken || full ? TB_ADMIT_REFUSE : TB_ADMIT;
        a->refused += r == TB_ADMIT_REFUSE;
        tb_chain_head_set_slots(a->head_file, ++a->slots);
    }
    pthread_mutex_unlock(&a->lock);
    return r;
}

void tb_audit_submit(struct tb_audit *a, struct tb_audit_record *r)
{
    pthread_mutex_lock(&a->lock);
    r->next = NULL;
    if (!a->head)
        pthread_cond_signal(&a->wake);
    *a->tail = r;
    a->tail = &r->next;
    pthread_mutex_unlock(&a->lock);
}

void tb_audit_reopen(struct tb_audit *a)
{
    pthread_mutex_lock(&a->lock);
    a->reopen = true;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

static bool join_within(pthread_t thread, unsigned timeout_ms)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += timeout_ms / 1000;
    deadline.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    if (deadline.tv_nsec >= 1000000000L) {
        deadline.tv_sec++;
        deadline.tv_nsec -= 1000000000L;
    }
    return pthread_timedjoin_np(thread, NULL, &deadline) == 0;
}

static void set_and_wake(struct tb_audit *a, bool *flag)
{
    pthread_mutex_lock(&a->lock);
    *flag = true;
    pthread_cond_signal(&a->wake);
    pthread_cond_signal(&a->sync_wake);
    pthread_mutex_unlock(&a->lock);
}

/* Lets a thread come to its end, and after timeout_ms without it. */
static bool join_or_give_up(struct tb_audit *a, pthread_t thread, unsigned timeout_ms)
{
    if (join_within(thread, timeout_ms))
        return true;
    set_and_wake(a, &a->give_up);
    return join_within(thread, 1000);
}

size_t tb_audit_close(struct tb_audit *a, unsigned timeout_ms)
{
    size_t left;
    bool joined;

    set_and_wake(a, &a->stop);
    joined = join_or_give_up(a, a->thread, timeout_ms);
    set_and_wake(a, &a->stop_sync);
    joined = join_or_give_up(a, a->sync_thread, timeout_ms) && joined;
    pthread_mutex_lock(&a->lock);
    left = a->slots;
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
                                   .unsynced = a->told.seq - a->synced,
                                   .slots = a->slots,
                                   .limit = a->limit,
                                   .broken = a->broken,
                                   .seq = a->told.seq};
    tb_hex_encode(a->told.hash, sizeof(a->told.hash), ret->head);
    pthread_mutex_unlock(&a->lock);
}
