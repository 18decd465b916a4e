/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint of mode s3, over a listener that tb-load makes in the namespace of the runtime: the model's
 * files by S3's REST API, in a bucket whose random name is the permission to read it.
 *
 * Each worker serves connections of its own by one epoll, so that no connection needs a lock. Bytes that are
 * still on their way are waited for by the connection, not by the worker. No socket is ever waited for: who
 * takes nothing for a while is let go. */
#ifndef TB_DECRYPT_ENDPOINT_H
#define TB_DECRYPT_ENDPOINT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "decrypt/s3_answer.h"
#include "decrypt/weights.h"

#define ENDPOINT_CONNECTIONS 256
#define ENDPOINT_HEAD_US 10000000ULL  /* until a request has come whole, and the first one at all */
#define ENDPOINT_IDLE_US 60000000ULL  /* between requests */
#define ENDPOINT_STALL_US 60000000ULL /* while a client takes nothing of its answer */
#define ENDPOINT_DRAIN_US 1000000ULL  /* until a client has read a refusal, and closed */
#define ENDPOINT_FILL_AHEAD 2 /* blocks after the one that is read; fewer where there are many readers */

struct endpoint_conn;

struct endpoint_worker {
    struct tb_endpoint *e;
    unsigned number; /* as a reader of the weights */
    pthread_t id;
    int epoll_fd;
    int inbox[2];        /* a pipe of descriptors to serve; ENDPOINT_LOOK: bytes may have come */
    atomic_uint n_conns; /* those in the inbox too */
    struct endpoint_conn *conns;
    struct s3_request request; /* the one that is being answered */
};

struct tb_endpoint {
    /* What the caller sets. */
    int listener;               /* borrowed, non-blocking */
    struct tb_weights *weights; /* borrowed */
    /* The rest is private. */
    struct s3_bucket bucket;
    struct endpoint_worker workers[WEIGHTS_THREADS_MAX];
    unsigned n_workers, n_started;
    pthread_t watch;
    bool watched;        /* that thread was started */
    atomic_uint n_reads; /* answers that are being sent */
    atomic_uint n_waits; /* and of these, those whose bytes have not come */
    atomic_bool revoked;
    pthread_mutex_t lock; /* for a change of n_waits from 0 */
    pthread_cond_t waits;
};

/* How many readers of the weights it has. */
unsigned tb_endpoint_readers(void);
/* Names the bucket and makes what the workers need. 0 or -errno. */
int tb_endpoint_init(struct tb_endpoint *e, const uint8_t *manifest_sha256, struct tbenc_error *err);
/* Starts the threads. 0 or -errno. */
int tb_endpoint_start(struct tb_endpoint *e);
/* Every connection is cut, what is on its way to a client included, the weights are revoked, and nobody is
 * served any more. */
void tb_endpoint_revoke(struct tb_endpoint *e);

/* -- between the files of the endpoint ------------------------------------------------------------------- */
#define ENDPOINT_LOOK (-1)

/* Takes a connected socket, which is the worker's from now on. */
void endpoint_conn_add(struct endpoint_worker *w, int fd);
/* Something is to be done for it, by what epoll says: 0 by itself. It may be gone afterwards. */
void endpoint_conn_step(struct endpoint_worker *w, struct endpoint_conn *c, uint32_t events);
/* Bytes may have come. */
void endpoint_conns_look(struct endpoint_worker *w);
/* Lets go who has kept us waiting. */
void endpoint_conns_sweep(struct endpoint_worker *w);
/* Cuts all. */
void endpoint_conns_cut(struct endpoint_worker *w);

#endif
