/* SPDX-License-Identifier: Apache-2.0 */
/* The read-only file system of mode view, over the descriptor of a mounted /dev/fuse that tb-load passes.
 *
 * Workers take requests from the kernel and answer them. A READ of bytes that are still on their way is
 * parked, and answered by a waker when they came: no thread waits for the network.
 *
 * Nothing is pushed into the page cache (NOTIFY_STORE): a thread that does so waits, where no signal reaches
 * it, for pages that a READ holds. If the process is killed then, that READ is never answered, the thread
 * keeps the descriptor open, and reader and process hang for ever. docs/contracts.md, "Delivery". */
#ifndef TB_DECRYPT_VIEW_H
#define TB_DECRYPT_VIEW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "decrypt/fuse_tree.h"
#include "decrypt/weights.h"

#define VIEW_INTERRUPTS 64
#define VIEW_FILL_AHEAD 2 /* blocks after the one that is read */

struct view_read { /* a READ that waits for bytes */
    struct fuse_request q;
    struct view_read *next;
};

struct view_thread {
    struct tb_view *v;
    unsigned number; /* as a reader of the weights */
    pthread_t id;
};

struct tb_view {
    /* What the caller sets. */
    int fuse_fd;                /* borrowed */
    struct tb_weights *weights; /* borrowed */
    /* The rest is private. */
    struct fuse_tree tree;
    unsigned n_each; /* workers, and as many wakers where the ciphertext is still coming */
    struct view_thread threads[2 * WEIGHTS_THREADS_MAX];
    unsigned n_started;
    atomic_bool revoked, initialised, ended;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* for wakers */
    /* under the lock */
    struct view_read *parked;
    uint64_t interrupted[VIEW_INTERRUPTS]; /* READs that nobody waits for any more, the last ones */
    unsigned n_interrupted;
};

/* How many readers of the weights a view has, at most. */
unsigned tb_view_readers(const struct tb_weights *w);
/* Makes the tree. 0 or -errno. */
int tb_view_init(struct tb_view *v, struct tbenc_error *e);
/* Starts the threads. 0 or -errno. */
int tb_view_start(struct tb_view *v);

/* Waits for the end of all threads when the mount is gone; else they end with the process. */
void tb_view_leave(struct tb_view *v);

/* The mount has been made: its first request was answered. */
static inline bool tb_view_serves(struct tb_view *v)
{
    return atomic_load(&v->initialised);
}
/* The mount is gone, and with it every reader. */
static inline bool tb_view_over(struct tb_view *v)
{
    return atomic_load(&v->ended);
}
/* From now on every read fails: parked ones do at once, and pages that were read are taken back, from
 * mappings too, also where they are locked in memory; the weights are revoked. For a thread that owes no
 * answer. */
void tb_view_revoke(struct tb_view *v);

/* -- between the files of the view ----------------------------------------------------------------------- */
void view_reply(struct tb_view *v, uint64_t unique, int error, const void *buf, size_t n);
/* Answers what is no READ. */
void view_answer(struct tb_view *v, const struct fuse_request *q);
/* Takes back what the kernel has of every file, from mappings too. */
void view_take_back(struct tb_view *v);

#endif
