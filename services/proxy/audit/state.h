/* SPDX-License-Identifier: Apache-2.0 */
/* What audit.c (queue and admission), writer.c (the threads) and recover.c (the chain at the start) share. */
#ifndef TB_PROXY_AUDIT_STATE_H
#define TB_PROXY_AUDIT_STATE_H

#include <pthread.h>

#include "common/chain_head.h"
#include "proxy/audit/audit.h"
#include "proxy/audit/refusals.h"
#include "proxy/audit/sink.h"

struct tb_audit {
    struct tb_audit_sink sink;
    struct tb_chain_head *head_file;
    char *head_path;          /* NULL: it has no file */
    struct tb_chain_point at; /* the writer's: the last record formatted */
    uint64_t synced_us;       /* the writer's */
    size_t limit;
    pthread_t thread, sync_thread;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake, sync_wake;
    struct tb_audit_record *head, **tail;
    size_t queued; /* records from head on */
    /* The writer waits for the first record, or, just after it has written, for several. */
    bool gathering;
    struct tb_refusals refusals;
    size_t slots;
    /* requests whose records are in refusals, or stand for several and are not written yet */
    uint64_t gathered;
    uint64_t written, refused, dropped, aggregated;
    struct tb_chain_point reported;     /* the last record written */
    uint64_t synced;                    /* number of the last one synced */
    char trouble[TB_AUDIT_TROUBLE_MAX]; /* of the last write or sync that failed */
    char barred[TB_AUDIT_TROUBLE_MAX];  /* "" but while tb_audit_bar() says so */
    uint64_t made_again;                /* files */
    int head_error;                     /* the head is not under its name, and cannot be made again */
    bool broken, sync_broken, stop, stop_sync, give_up, reopen;
    struct tb_audit_record *written_records; /* written: to be used again */
    size_t n_written_records;
    struct tb_audit_record *spare; /* of the thread that submits: taken from there */
};

#define TB_AUDIT_GATHER 256 /* records that are written without waiting for more */

/* Finds where the chain stands after whatever ended the last writer. The head says it, but for the records
 * that were being written: of these the file knows, and else they count as written and are declared
 * doubtful. -errno. */
int tb_audit_recover(struct tb_audit *a);

/* The threads: the one that formats and writes, and the one that syncs. */
void *tb_audit_write_thread(void *arg);
void *tb_audit_sync_thread(void *arg);

/* How many requests a kill now would leave without a record; on the lock. */
static inline void tb_audit_note_open(struct tb_audit *a)
{
    tb_chain_head_set_slots(a->head_file, a->slots + a->gathered);
}

#endif
