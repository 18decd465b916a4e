/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/partial.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "common/hex.h"
#include "common/io.h"
#include "common/range_map.h"
#include "common/secret.h"

#define SAVE_INTERVAL_SEC 1
#define FILE_MODE 0640

struct partial {
    char *path, *record_path, *live_path;
    int fd;
    struct tb_range_map *map; /* NULL: this kernel tells no boot id */
    struct partial_identity id;
    char instance[INSTANCE_MAX];
    bool saving; /* the thread runs */
    pthread_t saver;
    pthread_mutex_t save_lock; /* one save at a time */
    pthread_mutex_t lock;      /* guards what follows, and id.etag */
    pthread_cond_t changed;
    struct ranges ranges;
    bool dirty, stop;
    int error; /* of the last save */
};

/* Data first, then the record that vouches for it. */
static int partial_save(struct partial *p)
{
    _cleanup_ranges_ struct ranges ranges = {0};
    _cleanup_free_ char *text = NULL;
    struct partial_identity id;
    int r;

    pthread_mutex_lock(&p->save_lock);
    pthread_mutex_lock(&p->lock);
    r = ranges_copy(&ranges, &p->ranges);
    id = p->id;
    p->dirty = false;
    pthread_mutex_unlock(&p->lock);

    if (r == 0 && fdatasync(p->fd) < 0)
        r = -errno;
    if (r == 0) {
        text = record_format(&id, p->instance, &ranges);
        r = text ? tb_write_file_atomic(p->record_path, text, strlen(text), FILE_MODE) : -ENOMEM;
    }
    pthread_mutex_unlock(&p->save_lock);
    return r;
}

static void *saver_main(void *arg)
{
    struct partial *p = arg;

    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        struct timespec until;
        int r;

        if (!p->dirty) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);
        r = partial_save(p);
        pthread_mutex_lock(&p->lock);
        p->error = r;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += SAVE_INTERVAL_SEC;
        while (!p->stop && pthread_cond_timedwait(&p->changed, &p->lock, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int saver_start(struct partial *p)
{
    int r;

    r = -pthread_create(&p->saver, NULL, saver_main, p);
    p->saving = r == 0;
    return r;
}

static void saver_stop(struct partial *p)
{
    if (!p->saving)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->saver, NULL);
    p->saving = false;
}

static int partial_new(const char *final_path, struct partial **ret)
{
    struct partial *p = calloc(1, sizeof(*p));
    pthread_condattr_t attr;

    if (!p)
        return -ENOMEM;
    p->fd = -1;
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->save_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->changed, &attr);
    pthread_condattr_destroy(&attr);
    p->path = tb_strf("%s" PARTIAL_SUFFIX, final_path);
    p->record_path = tb_strf("%s" PARTIAL_RECORD_SUFFIX, final_path);
    p->live_path = tb_strf("%s" PARTIAL_LIVE_SUFFIX, final_path);
    if (!p->path || !p->record_path || !p->live_path) {
        partial_close(p);
        return -ENOMEM;
    }
    *ret = p;
    return 0;
}

/* Adds what came since the durable record was written, if that was in this boot. */
static void partial_add_live(const struct partial *p, const struct partial_identity *id,
                             struct ranges *ranges)
{
    _cleanup_range_map_ struct tb_range_map *m = NULL;
    const struct tb_range_map_id *of;

    if (tb_range_map_open(p->live_path, &m) < 0)
        return;
    of = tb_range_map_id(m);
    if (strcmp(of->instance, p->instance) != 0 || of->size != id->size || of->chunk != id->chunk)
        return;
    for (uint64_t i = 0; i < ranges->n; i++)
        if (tb_range_map_has_range(m, i))
            ranges_add(ranges, i);
}

/* The disk does not give it back, or its owner or mode was changed: beginning anew helps. */
static int partial_unusable(int r)
{
    return r == -EFBIG || r == -EISDIR || r == -EACCES || r == -EPERM || r == -ELOOP || tb_errno_is_disk(r)
               ? -ENOENT
               : r;
}

/* Takes over what an earlier run left. -ENOENT when there is nothing of use. */
static int partial_resume(struct partial *p, const struct partial_identity *want)
{
    _cleanup_ranges_ struct ranges ranges = {0};
    _cleanup_close_ int fd = -1;
    _cleanup_free_ char *text = NULL;
    struct partial_identity id;
    struct stat st;
    size_t len;
    int r;

    r = tb_read_file(p->record_path, RECORD_MAX, &text, &len);
    if (r < 0)
        return partial_unusable(r);
    r = record_parse(text, len, &id, p->instance, &ranges);
    if (r < 0)
        return r == -EBADMSG ? -ENOENT : r;
    fd = open(p->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 || fstat(fd, &st) < 0)
        return partial_unusable(-errno);
    if (id.size != want->size || (uint64_t)st.st_size != id.size || !S_ISREG(st.st_mode) ||
        memcmp(id.sha256, want->sha256, sizeof(id.sha256)) != 0)
        return -ENOENT;
    partial_add_live(p, &id, &ranges);
    p->id = id;
    p->fd = TAKE_FD(fd);
    p->ranges = ranges;
    ranges = (struct ranges){0};
    return 0;
}

/* Reserves the space now, so that a full disk shows before the download. Filesystems that cannot reserve
 * get a hole. */
static int partial_reserve(int fd, uint64_t size)
{
    if (fallocate(fd, 0, 0, (off_t)size) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return -errno;
    return ftruncate(fd, (off_t)size) < 0 ? -errno : 0;
}

static int partial_make_instance(struct partial *p)
{
    uint8_t random[(INSTANCE_MAX - 1) / 2];
    int r = tb_random(random, sizeof(random));

    if (r == 0)
        tb_hex_encode(random, sizeof(random), p->instance);
    return r;
}

static int partial_begin(struct partial *p, const struct partial_identity *want)
{
    int r = partial_make_instance(p);

    if (r < 0)
        return r;
    p->id = *want;
    p->id.chunk = ranges_chunk_for(want->size, want->chunk);
    r = ranges_init(&p->ranges, p->id.size, p->id.chunk);
    if (r < 0)
        return r;
    p->fd = open(p->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, FILE_MODE);
    if (p->fd < 0)
        return -errno;
    r = partial_reserve(p->fd, p->id.size);
    return r < 0 ? r : partial_save(p);
}

static int partial_make_map(struct partial *p)
{
    struct tb_range_map_id id = {.size = p->id.size, .chunk = p->id.chunk};
    int r;

    memcpy(id.instance, p->instance, sizeof(id.instance));
    memcpy(id.sha256, p->id.sha256, sizeof(id.sha256));
    r = tb_range_map_create(p->live_path, &id, p->ranges.bits, &p->map);
    return r == -ENOTSUP ? 0 : r;
}

int partial_open(const char *final_path, const struct partial_identity *want, struct partial **ret)
{
    _cleanup_partial_ struct partial *p = NULL;
    int r;

    r = partial_new(final_path, &p);
    if (r < 0)
        return r;
    r = partial_resume(p, want);
    if (r == -ENOENT) {
        r = partial_remove(final_path);
        if (r == 0)
            r = partial_begin(p, want);
    }
    if (r < 0)
        return r;
    r = partial_make_map(p);
    if (r == 0)
        r = saver_start(p);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(p);
    return 0;
}

int partial_open_complete(const char *final_path, const struct partial_identity *id, struct partial **ret)
{
    _cleanup_partial_ struct partial *p = NULL;
    int r = partial_new(final_path, &p);

    if (r == 0)
        r = partial_make_instance(p);
    if (r < 0)
        return r;
    free(p->path);
    p->path = strdup(final_path);
    if (!p->path)
        return -ENOMEM;
    p->id = *id;
    p->id.chunk = ranges_chunk_for(id->size, id->chunk);
    r = ranges_init(&p->ranges, p->id.size, p->id.chunk);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < p->ranges.n; i++)
        ranges_add(&p->ranges, i);
    p->fd = open(final_path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (p->fd < 0)
        return -errno;
    r = partial_make_map(p);
    if (r == 0)
        *ret = TAKE_PTR(p);
    return r;
}

struct partial *partial_close(struct partial *p)
{
    if (!p)
        return NULL;
    if (p->saving) {
        saver_stop(p);
        if (p->dirty)
            (void)partial_save(p);
    }
    ranges_clear(&p->ranges);
    tb_close(p->fd);
    tb_range_map_free(p->map);
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->save_lock);
    pthread_cond_destroy(&p->changed);
    free(p->path);
    free(p->record_path);
    free(p->live_path);
    free(p);
    return NULL;
}

int partial_fd(const struct partial *p)
{
    return p->fd;
}

const char *partial_path(const struct partial *p)
{
    return p->path;
}

const struct partial_identity *partial_identity(const struct partial *p)
{
    return &p->id;
}

const struct ranges *partial_ranges(const struct partial *p)
{
    return &p->ranges;
}

bool partial_has_map(const struct partial *p)
{
    return p->map != NULL;
}

void partial_set_etag(struct partial *p, const char *etag)
{
    pthread_mutex_lock(&p->lock);
    snprintf(p->id.etag, sizeof(p->id.etag), "%s", etag);
    p->dirty = true;
    pthread_cond_signal(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

int partial_mark(struct partial *p, uint64_t i)
{
    int r;

    pthread_mutex_lock(&p->lock);
    ranges_add(&p->ranges, i);
    if (!p->dirty)
        pthread_cond_signal(&p->changed);
    p->dirty = true;
    r = p->error;
    pthread_mutex_unlock(&p->lock);
    if (p->map)
        tb_range_map_mark(p->map, i);
    return r;
}

bool partial_wants_again(const struct partial *p, uint64_t off, uint64_t len, uint32_t seen)
{
    return p->map && tb_range_map_has(p->map, off, len, NULL) &&
           !tb_range_map_came_again(p->map, off, len, seen);
}

void partial_renew(struct partial *p, uint64_t off, uint64_t len)
{
    tb_range_map_renew(p->map, off, len);
}

int partial_sync(struct partial *p)
{
    /* with the times: .verified.json will name the mtime */
    return fsync(p->fd) < 0 ? -errno : partial_save(p);
}

static int partial_end(const char *final_path, enum tb_range_map_state end, bool keep_map)
{
    /* the record first: without it the data is nothing */
    static const char *const suffixes[] = {PARTIAL_RECORD_SUFFIX, PARTIAL_LIVE_SUFFIX, PARTIAL_SUFFIX};
    bool removed = false;

    for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
        _cleanup_free_ char *path = tb_strf("%s%s", final_path, suffixes[i]);

        if (!path)
            return -ENOMEM;
        if (strcmp(suffixes[i], PARTIAL_LIVE_SUFFIX) == 0)
            tb_range_map_end(path, end);
        if (keep_map && strcmp(suffixes[i], PARTIAL_LIVE_SUFFIX) == 0)
            continue;
        /* looked for first: a disk that may only be read has another error for what is not there */
        if (faccessat(AT_FDCWD, path, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        if (unlink(path) < 0 && errno != ENOENT)
            return -errno;
        removed = true;
    }
    return removed ? tb_fsync_parent(final_path) : 0;
}

int partial_remove(const char *final_path)
{
    return partial_end(final_path, TB_RANGE_MAP_ABANDONED, false);
}

int partial_abandon(const char *final_path)
{
    return partial_end(final_path, TB_RANGE_MAP_ABANDONED, true);
}

int partial_finish(const char *final_path)
{
    return partial_end(final_path, TB_RANGE_MAP_COMPLETE, false);
}

int partial_remove_dir(const char *dir)
{
    _cleanup_closedir_ DIR *d = opendir(dir);
    struct dirent *e;

    if (!d)
        return errno == ENOENT ? 0 : -errno;
    while ((e = readdir(d))) {
        size_t n = strlen(e->d_name), suffix = strlen(PARTIAL_LIVE_SUFFIX);

        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        if (n > suffix && strcmp(e->d_name + n - suffix, PARTIAL_LIVE_SUFFIX) == 0) {
            _cleanup_free_ char *live = tb_path_join(dir, e->d_name);

            if (live)
                tb_range_map_end(live, TB_RANGE_MAP_ABANDONED);
        }
        (void)unlinkat(dirfd(d), e->d_name, 0);
    }
    return rmdir(dir) < 0 ? -errno : 1;
}
