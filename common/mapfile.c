/* SPDX-License-Identifier: Apache-2.0 */
#include "common/mapfile.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "common/io.h"
#include "common/units.h"

static int mapfile_set_size(int fd, uint64_t have, uint64_t bytes, bool reserve)
{
    if (reserve)
        return -posix_fallocate(fd, 0, (off_t)bytes);
    return have < bytes && ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;
}

int tb_mapfile_open(const char *path, const char magic[static TB_MAPFILE_MAGIC], size_t bytes, bool reserve,
                    void **ret_map)
{
    static const char nothing[TB_MAPFILE_MAGIC];
    _cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
    char found[TB_MAPFILE_MAGIC] = "";
    struct stat st;
    ssize_t n;
    bool fresh;
    void *map;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    n = tb_pread_full(fd, found, sizeof(found), 0);
    if (n < 0)
        return (int)n;
    fresh = memcmp(found, nothing, sizeof(found)) == 0;
    if (!fresh && memcmp(found, magic, sizeof(found)) != 0)
        return -EBADMSG;
    r = mapfile_set_size(fd, (uint64_t)st.st_size, bytes, reserve);
    if (r == 0 && fresh)
        r = tb_pwrite_full(fd, magic, TB_MAPFILE_MAGIC, 0);
    if (r >= 0 && fresh)
        r = fsync(fd) < 0 ? -errno : tb_fsync_parent(path);
    if (r < 0)
        return r;
    map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    *ret_map = map;
    return TAKE_FD(fd);
}

int tb_mapfile_create(const char *path, const void *bytes, size_t n)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    int r = tb_newfile_open(&f, path, 0640);

    if (r >= 0)
        r = tb_write_full(f.fd, bytes, n);
    if (r >= 0)
        r = tb_newfile_commit(&f, false);
    return r == -EEXIST ? 0 : r;
}

int tb_mapfile_map(int fd, const char magic[static TB_MAPFILE_MAGIC], size_t n, bool write, void **ret)
{
    struct stat st;
    void *p;

    assert(fd >= 0 && n >= TB_MAPFILE_MAGIC);
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != n)
        return -EBADMSG;
    p = mmap(NULL, n, write ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    if (memcmp(p, magic, TB_MAPFILE_MAGIC) != 0) {
        munmap(p, n);
        return -EBADMSG;
    }
    *ret = p;
    return 0;
}

bool tb_mapfile_has_its_name(const char *path, int fd)
{
    struct stat open_one, named;

    return fstat(fd, &open_one) == 0 && lstat(path, &named) == 0 && open_one.st_ino == named.st_ino &&
           open_one.st_dev == named.st_dev;
}

/* Pages of zeros stay holes, as they may be in the old one. */
static int mapfile_copy(int fd, const char *map, size_t n, bool reserve)
{
    static const char zeros[4096];
    int r = mapfile_set_size(fd, 0, n, reserve);

    for (size_t at = 0, step; r >= 0 && at < n; at += step) {
        step = MIN(sizeof(zeros), n - at);
        if (memcmp(map + at, zeros, step) != 0)
            r = tb_pwrite_full(fd, map + at, step, at);
    }
    return r;
}

int tb_mapfile_keep(const char *path, int *fd, void *map, size_t n, bool reserve, bool lock)
{
    _cleanup_newfile_ struct tb_newfile f = TB_NEWFILE_INIT;
    _cleanup_close_ int new = -1;
    int r;

    if (tb_mapfile_has_its_name(path, *fd))
        return 0;
    r = tb_newfile_open(&f, path, 0640);
    if (r >= 0)
        r = mapfile_copy(f.fd, map, n, reserve);
    if (r < 0)
        return r;
    new = fcntl(f.fd, F_DUPFD_CLOEXEC, 3);
    if (new < 0 || (lock && flock(new, LOCK_EX | LOCK_NB) < 0))
        return -errno;
    r = tb_mapfile_set_aside(path);
    if (r >= 0 || r == -ENOENT)
        r = tb_newfile_commit(&f, false);
    if (r < 0)
        return r;
    if (mmap(map, n, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, new, 0) == MAP_FAILED)
        return -errno;
    close(*fd);
    *fd = TAKE_FD(new);
    return 1;
}

int tb_mapfile_set_aside(const char *path)
{
    char now[TB_RFC3339_MAX];
    _cleanup_free_ char *to = tb_strf("%s.corrupt-%s", path, tb_rfc3339_format(tb_now_realtime_us(), 1, now));

    if (!to)
        return -ENOMEM;
    return rename(path, to) < 0 ? -errno : 0;
}
