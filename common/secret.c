/* SPDX-License-Identifier: Apache-2.0 */
#include "common/secret.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>

#include "common/hex.h"
#include "common/io.h"

/* Length of the mapping, kept in front of the memory handed out. */
struct secret_prefix {
    size_t map_len;
    size_t pad;
};

void tb_secret_init(void)
{
    /* Limit 1, not 0: the kernel ignores a limit of 0 when cores go to a pipe, and honours 1. */
    struct rlimit no_core = {.rlim_cur = 1, .rlim_max = 1};

    (void)setrlimit(RLIMIT_CORE, &no_core);
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

void tb_erase(void *p, size_t n)
{
    if (n > 0)
        OPENSSL_cleanse(p, n);
}

void *tb_secret_alloc(size_t n)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), len;
    struct secret_prefix *p;

    assert(n > 0);
    if (n > SIZE_MAX - sizeof(*p) - page) {
        errno = ENOMEM;
        return NULL;
    }
    len = (n + sizeof(*p) + page - 1) / page * page;
    p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    (void)mlock(p, len);
    (void)madvise(p, len, MADV_DONTDUMP);
    (void)madvise(p, len, MADV_WIPEONFORK);
    p->map_len = len;
    return p + 1;
}

void tb_secret_free(void *p)
{
    struct secret_prefix *s = p;
    size_t len;

    if (!p)
        return;
    s--;
    len = s->map_len;
    tb_erase(s, len);
    munmap(s, len);
}

void tb_erase_string(char *s)
{
    if (s)
        tb_erase(s, strlen(s));
    free(s);
}

bool tb_mem_equal(const void *a, const void *b, size_t n)
{
    return CRYPTO_memcmp(a, b, n) == 0;
}

int tb_random(void *out, size_t n)
{
    for (uint8_t *p = out; n > 0;) {
        ssize_t k = getrandom(p, n, 0);

        if (k < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

static int key_from_bytes(const char *buf, size_t len, struct tb_key *ret)
{
    if (len == TB_KEY_BYTES) {
        memcpy(ret->b, buf, TB_KEY_BYTES);
        return 0;
    }
    if (len == TB_KEY_HEX_CHARS + 2 && buf[len - 1] == '\n' && buf[len - 2] == '\r')
        len -= 2;
    else if (len == TB_KEY_HEX_CHARS + 1 && buf[len - 1] == '\n')
        len--;
    return tb_hex_decode(buf, len, ret->b, TB_KEY_BYTES);
}

int tb_key_read_file(const char *path, struct tb_key *ret)
{
    _cleanup_close_ int fd = -1;
    char buf[TB_KEY_HEX_CHARS + 16];
    ssize_t n;
    int r;

    if (strcmp(path, "-") != 0) {
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return -errno;
    }
    n = tb_read_full(fd < 0 ? STDIN_FILENO : fd, buf, sizeof(buf));
    r = n < 0 ? (int)n : key_from_bytes(buf, (size_t)n, ret);
    tb_erase(buf, sizeof(buf));
    return r;
}
