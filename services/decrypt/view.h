/* SPDX-License-Identifier: Apache-2.0 */
/* The read-only file system of mode view, over the descriptor of a mounted /dev/fuse that tb-load passes.
 *
 * Workers take requests from the kernel and answer them. A READ of bytes that are still on their way is
 * parked, and answered by a waker when they came: no thread waits for the network. Fillers decrypt what will
 * be read next.
 *
 * Nothing is pushed into the page cache (NOTIFY_STORE): a thread that does so waits, where no signal reaches
 * it, for pages that a READ holds. If the process is killed then, that READ is never answered, the thread
 * keeps the descriptor open, and reader and process hang for ever. docs/contracts.md, "Delivery". */
#ifndef TB_DECRYPT_VIEW_H
#define TB_DECRYPT_VIEW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "decrypt/cache.h"
#include "decrypt/fuse_tree.h"

#define VIEW_THREADS_MAX 16 /* of each kind */
#define VIEW_INTERRUPTS 64
#define VIEW_LAYERS_MAX 2
#define VIEW_AHEAD_MAX 64 /* blocks that are to be decrypted next */

struct view_read { /* a READ that waits for bytes */
    struct fuse_request q;
    struct view_read *next;
};

struct view_layer { /* a ciphertext: the overlay's or the only one, and what an overlay stands on */
    const struct tbenc_manifest *manifest;
    struct tb_ciphertext ciphertext;
    struct tb_cache *cache;
    uint64_t next_fill; /* under the lock of the view: all before it are verified, or being so */
};

struct view_place { /* where a file of the tree lies */
    struct view_layer *layer;
    size_t file;
};

struct view_block {
    struct view_layer *layer;
    uint64_t index;
};

struct view_thread {
    struct tb_view *v;
    unsigned number; /* of its cipher in the cache */
    pthread_t id;
};

struct tb_view {
    /* What the caller sets. */
    int fuse_fd;                        /* borrowed */
    const struct tbenc_manifest *files; /* the files that are served, whichever ciphertext they are in */
    struct view_layer layers[VIEW_LAYERS_MAX];
    unsigned n_layers;
    int event_fd; /* an eventfd that becomes readable when the state changed; borrowed */
    /* The rest is private. */
    struct fuse_tree tree;
    struct view_place *places; /* of each file */
    unsigned n_each; /* workers, and as many fillers; wakers too where the ciphertext is still coming */
    struct view_thread threads[3 * VIEW_THREADS_MAX];
    unsigned n_started;
    atomic_size_t next_revoked; /* file */
    atomic_bool revoked, initialised, ended;
    uint64_t start_us;
    atomic_ullong read_us; /* when the last READ came; 0: none did */
    pthread_mutex_t lock;
    pthread_cond_t changed, work; /* for wakers; for fillers */
    /* under the lock */
    struct view_read *parked;
    uint64_t interrupted[VIEW_INTERRUPTS]; /* READs that nobody waits for any more, the last ones */
    unsigned n_interrupted;
    struct view_block ahead[VIEW_AHEAD_MAX]; /* a ring */
    unsigned ahead_first, ahead_end;
    int error; /* the first that is no reader's fault, 0: none */
    const struct view_layer *at_fault;
    struct tbenc_error why;
};

/* Makes cache, tree and ciphers, for as long as the process lives; the key is not needed afterwards. 0 or
 * -errno. */
int tb_view_init(struct tb_view *v, const uint8_t *key, struct tbenc_error *e);

/* Decrypts the first block, or all of it, in this thread, and gives nothing away: is it the right key, and is
 * a ciphertext sound that was found damaged before? What has not come yet is left out. stop() ends it with
 * -ECANCELED. */
int tb_view_verify(struct tb_view *v, bool all, bool (*stop)(void *ctx), void *ctx, struct tbenc_error *e);
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
/* 0, or what makes the whole void: -EBADMSG damaged, or not the manifest's; -EPERM not mounted; -errno.
 * at_fault: the ciphertext that is, NULL: none. */
int tb_view_error(struct tb_view *v, const struct view_layer **at_fault, struct tbenc_error *e);
/* Of all ciphertexts together. */
void tb_view_state(struct tb_view *v, struct tb_cache_state *ret);

/* From now on every read fails: parked ones do at once, and pages that were read are taken back, from
 * mappings too, also where they are locked in memory. Then plaintext and key schedules are wiped. For a
 * thread that owes no answer. */
void tb_view_revoke(struct tb_view *v);

/* -- between the files of the view ----------------------------------------------------------------------- */
void view_fail(struct tb_view *v, const struct view_layer *at_fault, int error, const struct tbenc_error *e);
void view_reply(struct tb_view *v, uint64_t unique, int error, const void *buf, size_t n);
/* Answers what is no READ. */
void view_answer(struct tb_view *v, const struct fuse_request *q);
/* Has the blocks of that file decrypted that follow this one. */
void view_fill_after(struct tb_view *v, const struct view_place *place, uint64_t block);
void *view_filler(void *arg);

#endif
