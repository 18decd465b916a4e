/* SPDX-License-Identifier: Apache-2.0 */
/* A thread that watches for the two reasons to give up while the decryption runs: SIGTERM, and a client that
 * has gone. It first asks (the progress callback sees tb_guard_cancelled()); a decryption that cannot hear,
 * because it is blocked in a write to a FIFO nobody reads, it ends by force. It also feeds systemd's watchdog
 * while that FIFO is full, or while the ciphertext does not come: to wait for others is no hang. */
#ifndef TB_DECRYPT_GUARD_H
#define TB_DECRYPT_GUARD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

enum tb_guard_cause { TB_GUARD_NONE, TB_GUARD_SIGNAL, TB_GUARD_CLIENT };

struct tb_guard {
    int sock, signal_fd; /* borrowed: the client, and a signalfd for SIGTERM and SIGINT */
    int fifo;            /* borrowed: where the plaintext goes, -1 in mode dir */
    /* Called once, from the guard's thread, when asking did not help; does not return. */
    void (*last_resort)(void *ctx);
    bool (*waits)(void *ctx); /* the work waits for others now; NULL: it never does */
    void (*look)(void *ctx);  /* about once a second, from the guard's thread; NULL: nothing is to be done */
    void *ctx;
    /* private */
    pthread_t thread;
    int stop_fd;
    atomic_int cause;
};

/* Starts the thread. 0 or -errno. */
int tb_guard_start(struct tb_guard *g);
/* Ends it; last_resort will not be called any more. */
void tb_guard_stop(struct tb_guard *g);
enum tb_guard_cause tb_guard_cancelled(struct tb_guard *g);

#endif
