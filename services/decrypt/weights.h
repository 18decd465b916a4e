/* SPDX-License-Identifier: Apache-2.0 */
/* The plaintext of an asset for as long as it is read: one or two ciphertexts, each with its cache, the files
 * that are in them, and fillers that decrypt what will be read next. By which protocol it is read, a file
 * system's (view.h) or S3's (endpoint.h), is no matter here.
 *
 * A reader is a thread with a number of its own below n_readers. Any of them may call these functions. */
#ifndef TB_DECRYPT_WEIGHTS_H
#define TB_DECRYPT_WEIGHTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "decrypt/cache.h"

#define WEIGHTS_LAYERS_MAX 2
#define WEIGHTS_THREADS_MAX 16
#define WEIGHTS_AHEAD_MAX 64           /* blocks that are to be decrypted next */
#define WEIGHTS_READ_MAX (1024 * 1024) /* a block is at least as long, so it lies in two of them */

struct weights_layer { /* a ciphertext: the overlay's or the only one, and what an overlay stands on */
    const struct tbenc_manifest *manifest;
    struct tb_ciphertext ciphertext;
    struct tb_cache *cache;
    uint64_t next_fill; /* under the lock: all before it are verified, or being so */
};

struct weights_place { /* where a file lies */
    struct weights_layer *layer;
    size_t file;
};

struct weights_block {
    struct weights_layer *layer;
    uint64_t index;
    uint64_t then; /* when it was noted, as tb_cache_holds() says it */
};

struct weights_piece { /* of a file, in a block that is pinned */
    const struct tb_slot *slot;
    size_t skip, n;
};

struct weights_thread {
    struct tb_weights *w;
    unsigned number; /* of its cipher in the cache */
    pthread_t id;
};

struct tb_weights {
    /* What the caller sets. */
    const struct tbenc_manifest *files; /* those that are read, whichever ciphertext they are in */
    struct weights_layer layers[WEIGHTS_LAYERS_MAX];
    unsigned n_layers;
    int event_fd;     /* an eventfd that becomes readable when the state changed; borrowed; -1: none */
    unsigned n_slots; /* of each cache; 0: as many as serve readers well who read anywhere */
    bool reads_all;   /* the caller comes to every block: nothing is verified before that */
    /* The rest is private. */
    struct weights_place *places; /* of each file */
    unsigned n_fillers, n_readers, n_started, n_processors;
    struct weights_thread fillers[WEIGHTS_THREADS_MAX];
    uint64_t start_us;
    atomic_ullong read_us; /* when somebody read last; 0: nobody did */
    atomic_uint n_reading; /* reads that are being answered, from their pin on */
    atomic_bool stopped;
    pthread_mutex_t lock;
    pthread_cond_t work; /* for fillers */
    /* under the lock */
    struct weights_block ahead[WEIGHTS_AHEAD_MAX]; /* a ring */
    unsigned ahead_first, ahead_end;
    int error; /* the first that is no reader's fault, 0: none */
    const struct weights_layer *at_fault;
    struct tbenc_error why;
};

/* How many threads of a kind serve well on this machine. */
unsigned tb_weights_threads(void);
/* Makes caches, places and ciphers, for as long as the process lives; the key is not needed afterwards. 0 or
 * -errno. */
int tb_weights_init(struct tb_weights *w, const uint8_t *key, unsigned n_readers, unsigned n_fillers,
                    struct tbenc_error *e);
/* Decrypts the first block, or all of it, in this thread, and gives nothing away: is it the right key, and is
 * a ciphertext sound that was found damaged before? What has not come yet is left out, and what is fetched
 * once more is waited for. stop() ends it with -ECANCELED. Before tb_weights_start(). */
int tb_weights_verify(struct tb_weights *w, bool all, bool (*stop)(void *ctx), void *ctx,
                      struct tbenc_error *e);
/* Starts the fillers. 0 or -errno. */
int tb_weights_start(struct tb_weights *w);
/* The fillers are to end; tb_weights_join() waits until they did. */
void tb_weights_stop(struct tb_weights *w);
void tb_weights_join(struct tb_weights *w);
/* From now on every read fails. Then plaintext and key schedules are wiped, unless a reader still holds
 * pieces. */
void tb_weights_revoke(struct tb_weights *w);

/* What makes the whole void. The first one counts. */
void tb_weights_fail(struct tb_weights *w, const struct weights_layer *at_fault, int error,
                     const struct tbenc_error *e);
/* 0, or what was said to tb_weights_fail(): -EBADMSG damaged, or not the manifest's; -errno. at_fault: the
 * ciphertext that is, NULL: none. */
int tb_weights_error(struct tb_weights *w, const struct weights_layer **at_fault, struct tbenc_error *e);
/* Of all ciphertexts together. */
void tb_weights_state(struct tb_weights *w, struct tb_cache_state *ret);

size_t tb_weights_files(const struct tb_weights *w);
uint64_t tb_weights_file_bytes(const struct tb_weights *w, size_t file);
/* The first byte of the file behind the block that byte is in. */
uint64_t tb_weights_block_end(const struct tb_weights *w, size_t file, uint64_t off);
/* Blocks that are kept, of the first ciphertext. */
unsigned tb_weights_slots(const struct tb_weights *w);
/* A ciphertext that is still coming, or may be mended; NULL: none. */
const struct tb_ciphertext *tb_weights_coming(const struct tb_weights *w);

struct weights_served {
    size_t bytes; /* which the reader has got, from the first on */
    bool kept;    /* as tb_cache_served() says */
};

/* Bytes off..end-1 of a file, which has them: at least one, at most WEIGHTS_READ_MAX. Number of pieces;
 * -EAGAIN: they are not there yet, and now wanted; -ESHUTDOWN: revoked; -errno: it was told to
 * tb_weights_fail(). */
int tb_weights_pin(struct tb_weights *w, unsigned reader, size_t file, uint64_t off, uint64_t end,
                   struct weights_piece p[static 2]);
/* What follows them is decrypted next, as many blocks as ahead says, unless every processor has a read to
 * answer: these follow one another closely enough, and who answers one decrypts for it where it is used. Then
 * they are let go. */
void tb_weights_unpin(struct tb_weights *w, size_t file, uint64_t end, unsigned ahead,
                      const struct weights_piece *p, int n, struct weights_served served);
/* Would a pin find its bytes? */
bool tb_weights_came(struct tb_weights *w, size_t file, uint64_t off, uint64_t end);

/* -- between the files of the weights -------------------------------------------------------------------- */
void weights_fill_after(struct tb_weights *w, const struct weights_place *place, uint64_t block,
                        unsigned ahead);
void *weights_filler(void *arg);

#endif
