/* SPDX-License-Identifier: Apache-2.0 */
/* The pipeline of libtbenc: batches of records go round a ring of buffers.
 *
 *     fill, one at a time in order  ->  work, in parallel  ->  retire, in order, in the caller's thread
 *                                                          \->  observe, in order, a thread each (hashing)
 *
 * The workers do the filling too, under a lock, so that a batch stays in the cache of the CPU that will
 * work on it. What comes out does not depend on the number of workers. The first failure in batch order
 * wins: earlier batches are finished and retired, later ones are dropped. The engine knows nothing of the
 * format. */
#ifndef TBENC_ENGINE_H
#define TBENC_ENGINE_H

#include "tbenc/internal.h"

/* Small records travel together: about this much plaintext in a batch, and at most so many records. */
#define TBENC_BATCH_BYTES (1024 * 1024)
#define TBENC_BATCH_RECORDS 1024
#define TBENC_OBSERVERS_MAX 2

struct tbenc_batch {
    uint64_t seq; /* number of this batch, from 0 */
    unsigned n;   /* records in it */
    struct tbenc_record *rec;
    uint8_t *ct, *pt;      /* the records and their plaintext, each without gaps; on pages of their own */
    size_t ct_len, pt_len; /* bytes of each that belong to this batch */
    size_t ct_got;         /* opening: bytes of ct that the input had */
    uint8_t *tagrec;       /* n times length field and tag */
    int rc;                /* < 0: this batch failed, error says why */
    struct tbenc_error error;
    /* the engine's */
    bool ready;
    size_t pt_dirty; /* most plaintext bytes ever held, to be wiped */
};

/* Where record i of the batch starts in ct and in pt. */
static inline size_t tbenc_batch_ct(const struct tbenc_batch *b, unsigned i)
{
    return (size_t)(b->rec[i].ct_off - b->rec[0].ct_off);
}
static inline size_t tbenc_batch_pt(const struct tbenc_batch *b, unsigned i)
{
    return (size_t)(b->rec[i].pt_off - b->rec[0].pt_off);
}

struct tbenc_engine_ops {
    int (*fill)(void *ctx, struct tbenc_batch *b); /* 1: filled; 0: nothing left; < 0: b->error */
    int (*work)(void *ctx, unsigned worker, struct tbenc_batch *b);
    int (*retire)(void *ctx, struct tbenc_batch *b);
    int (*observe[TBENC_OBSERVERS_MAX])(void *ctx, struct tbenc_batch *b); /* NULL: none */
};

struct tbenc_engine_params {
    const struct tbenc_engine_ops *ops;
    void *ctx;
    unsigned workers;
    unsigned lag;         /* batches that must stay untouched after they were retired */
    uint32_t chunk_bytes; /* buffers hold tbenc_batch_records() records of this size */
    int wake_fd; /* eventfd, made readable when the work stops early: who waits for input watches it too */
};

/* Records in a batch. */
unsigned tbenc_batch_records(uint32_t chunk_bytes);
/* 0: one per CPU this thread may use; never more than TBENC_THREADS_MAX. */
unsigned tbenc_threads(unsigned asked);
/* Runs to the end, or to the first failure. All threads are gone and all plaintext is wiped on return. */
int tbenc_engine_run(const struct tbenc_engine_params *p, struct tbenc_error *e);

#endif
