/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/keymem.h"

#include <assert.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "common/macros.h"

/* A context of AES-256-GCM takes about 1.5 KiB; there are two for each thread. */
#define KEYMEM_BYTES (1024 * 1024UL)
#define KEYMEM_ALIGN 16UL

/* In front of each piece. */
struct keymem_piece {
    size_t n;
    size_t pad;
};

static struct {
    pthread_mutex_t lock;
    uint8_t *at;
    size_t used; /* pieces are never used again: a process serves one view */
} keymem = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local bool keymem_inside;

static bool keymem_has(const void *p)
{
    return keymem.at && (const uint8_t *)p >= keymem.at && (const uint8_t *)p < keymem.at + KEYMEM_BYTES;
}

static void *keymem_take(size_t n)
{
    size_t want = sizeof(struct keymem_piece) + (n + KEYMEM_ALIGN - 1) / KEYMEM_ALIGN * KEYMEM_ALIGN;
    struct keymem_piece *p = NULL;

    if (n > KEYMEM_BYTES)
        return NULL;
    (void)pthread_mutex_lock(&keymem.lock);
    if (want <= KEYMEM_BYTES - keymem.used) {
        p = (struct keymem_piece *)(void *)(keymem.at + keymem.used);
        keymem.used += want;
        p->n = n;
    }
    (void)pthread_mutex_unlock(&keymem.lock);
    return p ? p + 1 : NULL;
}

static void *keymem_malloc(size_t n, const char *file, int line)
{
    if (n == 0)
        return NULL;
    return keymem_inside ? keymem_take(n) : malloc(n);
}

static void keymem_free(void *p, const char *file, int line)
{
    if (keymem_has(p))
        OPENSSL_cleanse(p, ((struct keymem_piece *)p)[-1].n);
    else
        free(p);
}

static void *keymem_realloc(void *p, size_t n, const char *file, int line)
{
    void *fresh;

    if (!p)
        return keymem_malloc(n, file, line);
    if (!keymem_has(p))
        return realloc(p, n);
    fresh = n > 0 ? keymem_take(n) : NULL;
    if (fresh)
        memcpy(fresh, p, MIN(n, ((struct keymem_piece *)p)[-1].n));
    if (fresh || n == 0)
        keymem_free(p, file, line);
    return fresh;
}

int tb_keymem_install(void)
{
    return CRYPTO_set_mem_functions(keymem_malloc, keymem_realloc, keymem_free) == 1 ? 0 : -EBUSY;
}

static void *keymem_secret(void)
{
    _cleanup_close_ int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    void *p;

    if (fd < 0 || ftruncate(fd, KEYMEM_BYTES) < 0)
        return NULL;
    p = mmap(NULL, KEYMEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

const char *tb_keymem_open(void)
{
    const char *how = "in memory that is secret to the process";
    void *p = keymem_secret();

    assert(!keymem.at);
    if (!p) {
        how = "in locked memory, without memfd_secret(2)";
        p = mmap(NULL, KEYMEM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return NULL;
        if (mlock(p, KEYMEM_BYTES) < 0)
            how = "in memory that could not be locked";
    }
    (void)madvise(p, KEYMEM_BYTES, MADV_DONTDUMP);
    (void)madvise(p, KEYMEM_BYTES, MADV_DONTFORK);
    keymem.at = p;
    return how;
}

void tb_keymem_enter(void)
{
    assert(keymem.at);
    keymem_inside = true;
}

void tb_keymem_leave(void)
{
    keymem_inside = false;
}
