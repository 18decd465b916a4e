/* SPDX-License-Identifier: Apache-2.0 */
/* Modes dir and fifo: readers of the weights (weights.h) that read all of them once, and write what they read
 * into what the client passed. dir: each thread writes the block that it decrypted to its place, in the order
 * of the ciphertext. fifo: one writes file after file, while others decrypt what comes next; pages are lent
 * to the pipe. What belongs to the whole is compared at the end: the output is void until then. */
#ifndef TB_DECRYPT_POUR_H
#define TB_DECRYPT_POUR_H

#include "decrypt/weights.h"

struct tb_pour {
    /* What the caller sets. */
    struct tb_weights *weights; /* borrowed */
    const int *fds;             /* of each file of the weights, or that of the FIFO; borrowed */
    bool fifo;
    /* Called from any thread of the work: true ends it with -ECANCELED. done: plaintext bytes that were
     * written. */
    bool (*progress)(void *ctx, uint64_t done);
    void *ctx;
    /* The rest is private. */
    pthread_mutex_t lock;
    /* under the lock */
    unsigned layer; /* the next block that nobody has taken */
    uint64_t next, done;
    int *to[WEIGHTS_LAYERS_MAX]; /* of each file of a ciphertext: where it goes, -1: it is only verified */
    int error;
    struct tbenc_error why;
    const struct weights_layer *at_fault;
};

/* Initialises the weights as this reads them: with few slots, as each block is needed once. */
int tb_pour_init(struct tb_pour *p, const uint8_t *key, struct tbenc_error *e);
/* 0; -ECANCELED; -ESTALE: the ciphertext will not come; -EPIPE: nobody reads the FIFO; -EBADMSG or another
 * errno, with the reason in e and the ciphertext at fault, if one is, in *at_fault. */
int tb_pour_run(struct tb_pour *p, const struct weights_layer **at_fault, struct tbenc_error *e);

#endif
