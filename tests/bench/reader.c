/* SPDX-License-Identifier: Apache-2.0 */
/* A runtime for the benches of the delivery: reads a model as loaders do, and says when it had the first byte and
 * the last. As an interpreter would take a tenth of what is measured, it is no script.
 *
 *     reader read|direct|map THREADS TIMES MODEL OUT   the file, or each of a directory; OUT: the times of the first
 *                                                      byte and the last (CLOCK_MONOTONIC) and a sum of all bytes
 *     reader lock 1 1 MODEL OUT                        maps, touches and locks all, says so in OUT, and waits for
 *                                                      SIGBUS; OUT then has the time of that
 *
 * direct: O_DIRECT, 2 MiB at a time. */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define READ_BYTES (2UL << 20)

struct reader {
    const char *path;
    int fd;
    uint64_t size;
    bool maps, sums;
    const uint8_t *map;
    atomic_ullong next, sum;
    pthread_mutex_t lock;
    double first;
};

static const char *out_path;

static double reader_now(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void reader_die(const char *what)
{
    perror(what);
    exit(1);
}

/* Whole, or not there: somebody looks for it. */
static void reader_say(const char *text)
{
    char tmp[4096];
    FILE *f;

    snprintf(tmp, sizeof(tmp), "%s.tmp", out_path);
    f = fopen(tmp, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0 || rename(tmp, out_path) < 0)
        reader_die(out_path);
}

static uint64_t reader_sum(const uint8_t *p, size_t n)
{
    uint64_t sum = 0, word;

    for (; n >= sizeof(word); p += sizeof(word), n -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        sum += word;
    }
    for (size_t i = 0; i < n; i++)
        sum += (uint64_t)p[i] << 8 * i;
    return sum;
}

/* One piece: its bytes are there when this returns. */
static void reader_take(struct reader *r, uint64_t off, size_t n, uint8_t *buf)
{
    const uint8_t *p = buf;
    size_t got = 0;

    if (r->maps) {
        p = r->map + off;
        for (size_t i = 0; i < n; i += 4096)
            (void)*(volatile const uint8_t *)(p + i);
    }
    while (!r->maps && got < n) {
        ssize_t k = pread(r->fd, buf + got, READ_BYTES - got, (off_t)(off + got));

        if (k <= 0)
            reader_die(r->path);
        got += (size_t)k;
    }
    (void)pthread_mutex_lock(&r->lock);
    if (r->first == 0)
        r->first = reader_now();
    (void)pthread_mutex_unlock(&r->lock);
    if (r->sums)
        atomic_fetch_add(&r->sum, reader_sum(p, n));
}

static void *reader_thread(void *arg)
{
    struct reader *r = arg;
    uint8_t *buf = NULL;
    uint64_t off;

    if (posix_memalign((void **)&buf, 4096, READ_BYTES) != 0)
        reader_die("memory");
    while ((off = atomic_fetch_add(&r->next, READ_BYTES)) < r->size)
        reader_take(r, off, r->size - off < READ_BYTES ? r->size - off : READ_BYTES, buf);
    free(buf);
    return NULL;
}

static void reader_open(struct reader *r, bool direct)
{
    struct stat st;

    r->fd = open(r->path, O_RDONLY | (direct ? O_DIRECT : 0));
    if (r->fd < 0 && direct)
        r->fd = open(r->path, O_RDONLY);
    if (r->fd < 0 || fstat(r->fd, &st) < 0)
        reader_die(r->path);
    r->size = (uint64_t)st.st_size;
    r->map = r->maps ? mmap(NULL, r->size, PROT_READ, MAP_SHARED, r->fd, 0) : NULL;
    if (r->map == MAP_FAILED)
        reader_die(r->path);
}

/* What a mapped page that cannot be had any more is. */
static void reader_on_bus(int signo)
{
    char text[64];

    (void)signo; /* snprintf and stdio are no handler's business, but nothing else runs here */
    snprintf(text, sizeof(text), "bus %.6f", reader_now());
    reader_say(text);
    _exit(0);
}

static void reader_hold(struct reader *r)
{
    (void)signal(SIGBUS, reader_on_bus);
    for (uint64_t i = 0; i < r->size; i += 4096)
        (void)*(volatile const uint8_t *)(r->map + i);
    if (mlock(r->map, r->size) < 0)
        reader_die("mlock");
    reader_say("locked");
    for (;;)
        for (uint64_t i = 0; i < r->size; i += 4096)
            (void)*(volatile const uint8_t *)(r->map + i);
}

/* The model is a file, or the largest of a directory. */
static char *reader_find(const char *model)
{
    struct dirent **list = NULL;
    char *best = strdup(model);
    off_t size = -1;
    int n = scandir(model, &list, NULL, alphasort);

    for (int i = 0; i < n; i++) {
        char path[4096];
        struct stat st;

        snprintf(path, sizeof(path), "%s/%s", model, list[i]->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > size) {
            size = st.st_size;
            free(best);
            best = strdup(path);
        }
    }
    return best;
}

static void reader_run(struct reader *r, unsigned threads)
{
    pthread_t t[64];

    atomic_store(&r->next, 0);
    for (unsigned i = 0; i < threads; i++)
        if (pthread_create(&t[i], NULL, reader_thread, r) != 0)
            reader_die("threads");
    for (unsigned i = 0; i < threads; i++)
        (void)pthread_join(t[i], NULL);
}

int main(int argc, char **argv)
{
    struct reader r = {.lock = PTHREAD_MUTEX_INITIALIZER};
    unsigned threads, times;
    char text[128];
    double last;

    if (argc != 6)
        return 64;
    threads = (unsigned)atoi(argv[2]);
    times = (unsigned)atoi(argv[3]);
    out_path = argv[5];
    r.path = reader_find(argv[4]);
    r.maps = strcmp(argv[1], "map") == 0 || strcmp(argv[1], "lock") == 0;
    r.sums = times > 1;
    if (threads < 1 || threads > 64)
        return 64;
    reader_open(&r, strcmp(argv[1], "direct") == 0);
    if (strcmp(argv[1], "lock") == 0)
        reader_hold(&r);
    for (unsigned i = 0; i < times; i++)
        reader_run(&r, threads);
    last = reader_now();
    snprintf(text, sizeof(text), "%.6f %.6f %llu", r.first, last, (unsigned long long)atomic_load(&r.sum));
    reader_say(text);
    return 0;
}
