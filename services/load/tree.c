/* SPDX-License-Identifier: Apache-2.0 */
#include "load/tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/io.h"
#include "tbenc/tbenc.h"

static int tree_open_below(int dir_fd, const char *name)
{
    int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

int tb_tree_create(int dir_fd, const char *path)
{
    _cleanup_close_ int at = fcntl(dir_fd, F_DUPFD_CLOEXEC, 3);
    char name[TBENC_PATH_MAX + 1];
    const char *slash;
    int fd;

    if (at < 0)
        return -errno;
    if (!tbenc_path_valid(path))
        return -EINVAL;
    for (; (slash = strchr(path, '/')); path = slash + 1) {
        snprintf(name, sizeof(name), "%.*s", (int)(slash - path), path);
        if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
            return -errno;
        fd = tree_open_below(at, name);
        if (fd < 0)
            return fd;
        tb_close(at);
        at = fd;
    }
    fd = openat(at, path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

/* A stream over a second descriptor, from the first entry. */
static DIR *tree_list(int dir_fd)
{
    int fd = tree_open_below(dir_fd, ".");
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;

    if (!d)
        tb_close(fd);
    return d;
}

static struct dirent *tree_next(DIR *d)
{
    struct dirent *e;

    while ((e = readdir(d)) && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0))
        ;
    return e;
}

void tb_tree_empty(int dir_fd)
{
    _cleanup_closedir_ DIR *d = NULL;
    struct dirent *e;

    (void)fchmod(dir_fd, 0700);
    d = tree_list(dir_fd);
    while (d && (e = tree_next(d))) {
        _cleanup_close_ int sub = -1;

        if (unlinkat(dir_fd, e->d_name, 0) == 0 || errno != EISDIR)
            continue;
        sub = tree_open_below(dir_fd, e->d_name);
        if (sub >= 0)
            tb_tree_empty(sub);
        (void)unlinkat(dir_fd, e->d_name, AT_REMOVEDIR);
    }
}

int tb_tree_close(int dir_fd)
{
    _cleanup_closedir_ DIR *d = tree_list(dir_fd);
    struct dirent *e;

    if (!d)
        return -errno;
    while ((e = tree_next(d))) {
        _cleanup_close_ int sub = tree_open_below(dir_fd, e->d_name);
        int r = sub >= 0 ? tb_tree_close(sub) : sub;

        if (r < 0 && r != -ENOTDIR && r != -ELOOP)
            return r;
    }
    return fchmod(dir_fd, 0500) < 0 ? -errno : 0;
}
