/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/hasher.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include "common/io.h"

#define PIECE_BYTES (256 * 1024) /* stays in the core's cache between reading and hashing */
#define HASH_NICE (-5)

struct hasher {
    int fd, done_fd;
    uint64_t size;
    pthread_t thread;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t grown;
    uint64_t prefix, hashed;
    bool stop;
    int error;
    uint8_t digest[SHA256_BYTES];
};

/* Waits until there is something to hash. Returns how much, 0 to end. */
static size_t hasher_next_piece(struct hasher *h, uint64_t hashed)
{
    size_t n = 0;

    pthread_mutex_lock(&h->lock);
    h->hashed = hashed;
    while (!h->stop && hashed < h->size && h->prefix == hashed)
        pthread_cond_wait(&h->grown, &h->lock);
    if (!h->stop)
        n = (size_t)MIN(h->prefix - hashed, (uint64_t)PIECE_BYTES);
    pthread_mutex_unlock(&h->lock);
    return n;
}

static int hash_prefix(struct hasher *h, EVP_MD_CTX *ctx, uint8_t *buf)
{
    uint64_t off = 0;
    size_t n;

    while ((n = hasher_next_piece(h, off)) > 0) {
        ssize_t k = tb_pread_full(h->fd, buf, n, off);

        if (k < 0)
            return (int)k;
        if ((size_t)k < n)
            return -ENODATA;
        if (EVP_DigestUpdate(ctx, buf, n) != 1)
            return -EIO;
        off += n;
    }
    return off == h->size ? 0 : -ECANCELED;
}

static void *hash_main(void *arg)
{
    struct hasher *h = arg;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    _cleanup_free_ uint8_t *buf = malloc(PIECE_BYTES);
    uint8_t digest[SHA256_BYTES];
    int r = -ENOMEM;

    /* Needs a privilege or RLIMIT_NICE, and only helps. On Linux "process 0" is the calling thread. */
    (void)setpriority(PRIO_PROCESS, 0, HASH_NICE);
    if (ctx && buf && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1)
        r = hash_prefix(h, ctx, buf);
    if (r == 0 && EVP_DigestFinal_ex(ctx, digest, NULL) != 1)
        r = -EIO;
    EVP_MD_CTX_free(ctx);

    pthread_mutex_lock(&h->lock);
    h->error = r;
    if (r == 0)
        for (size_t i = 0; i < SHA256_BYTES; i++)
            h->digest[i] = digest[i];
    pthread_mutex_unlock(&h->lock);
    (void)eventfd_write(h->done_fd, 1);
    return NULL;
}

int hasher_start(int fd, uint64_t size, struct hasher **ret)
{
    struct hasher *h = calloc(1, sizeof(*h));
    int r;

    if (!h)
        return -ENOMEM;
    h->fd = fd;
    h->size = size;
    h->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->done_fd < 0) {
        r = -errno;
        free(h);
        return r;
    }
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->grown, NULL);
    r = pthread_create(&h->thread, NULL, hash_main, h);
    if (r != 0) {
        tb_close(h->done_fd);
        free(h);
        return -r;
    }
    *ret = h;
    return 0;
}

void hasher_advance(struct hasher *h, uint64_t prefix)
{
    pthread_mutex_lock(&h->lock);
    if (prefix > h->prefix) {
        h->prefix = MIN(prefix, h->size);
        pthread_cond_signal(&h->grown);
    }
    pthread_mutex_unlock(&h->lock);
}

uint64_t hasher_done(struct hasher *h)
{
    uint64_t n;

    pthread_mutex_lock(&h->lock);
    n = h->hashed;
    pthread_mutex_unlock(&h->lock);
    return n;
}

int hasher_fd(const struct hasher *h)
{
    return h->done_fd;
}

int hasher_result(struct hasher *h, uint8_t ret[static SHA256_BYTES])
{
    int r;

    pthread_mutex_lock(&h->lock);
    r = h->error;
    for (size_t i = 0; r == 0 && i < SHA256_BYTES; i++)
        ret[i] = h->digest[i];
    pthread_mutex_unlock(&h->lock);
    return r;
}

struct hasher *hasher_free(struct hasher *h)
{
    if (!h)
        return NULL;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->grown);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    pthread_mutex_destroy(&h->lock);
    pthread_cond_destroy(&h->grown);
    tb_close(h->done_fd);
    free(h);
    return NULL;
}
