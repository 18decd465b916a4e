/* SPDX-License-Identifier: Apache-2.0 */
#include "load/fifo.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "common/io.h"

static int fifo_make_path(struct tb_load *l, const char *path)
{
    const char *slash = strrchr(path, '/');
    _cleanup_free_ char *parent = strndup(path, slash > path ? (size_t)(slash - path) : 1);
    struct stat st;
    int r = parent ? tb_mkdir_p(parent, 0755) : -ENOMEM;

    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "cannot make the directory of TB_PIPE_PATH %s: %s",
                              path, strerror(-r));
    /* What an earlier run left is a FIFO. Anything else is somebody's, and not ours to remove. */
    if (lstat(path, &st) == 0 && !S_ISFIFO(st.st_mode))
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG,
                              "TB_PIPE_PATH %s is %s, not a FIFO; remove it or choose another path", path,
                              S_ISDIR(st.st_mode)   ? "a directory"
                              : S_ISLNK(st.st_mode) ? "a symbolic link"
                                                    : "a file");
    if (unlink(path) < 0 && errno != ENOENT)
        return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG,
                              "cannot remove what is at TB_PIPE_PATH %s: %s; remove it as its owner", path,
                              strerror(errno));
    if (mkfifo(path, 0600) < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot make the FIFO %s: %s", path,
                              strerror(errno));
    return 0;
}

/* Both ends, without a reader: a FIFO opened for both does not block, and its descriptor can be opened
 * again. */
static int fifo_open_ends(struct tb_fifo *f)
{
    _cleanup_close_ int both = open(f->path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    char again[64];
    struct stat st;

    if (both < 0 || fstat(both, &st) < 0)
        return -errno;
    if (!S_ISFIFO(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0777) != 0600)
        return -EBUSY; /* not the one made a moment ago */
    f->dev = st.st_dev;
    f->ino = st.st_ino;
    snprintf(again, sizeof(again), "/proc/self/fd/%d", both);
    f->write_fd = open(again, O_WRONLY | O_CLOEXEC);
    f->read_fd = open(again, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (f->write_fd < 0 || f->read_fd < 0)
        return -errno;
    return 0;
}

/* Set last, so that only opens of others are seen. The kernel merges an event into an equal one that is last
 * in the queue, and two readers would look like one; with the directory watched too, the two watches' events
 * alternate and none is merged. */
static int fifo_watch_opens(struct tb_fifo *f)
{
    const char *slash = strrchr(f->path, '/');
    _cleanup_free_ char *parent = strndup(f->path, slash > f->path ? (size_t)(slash - f->path) : 1);

    if (!parent)
        return -ENOMEM;
    f->watch_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (f->watch_fd < 0)
        return -errno;
    f->watch = inotify_add_watch(f->watch_fd, f->path, IN_OPEN | IN_DONT_FOLLOW);
    if (f->watch < 0)
        return -errno;
    (void)inotify_add_watch(f->watch_fd, parent,
                            IN_OPEN | IN_ONLYDIR); /* it may be unreadable; then the window stays */
    return 0;
}

int tb_fifo_make(struct tb_load *l, struct tb_fifo *f)
{
    int r;

    f->path = l->config->pipe_path;
    r = fifo_make_path(l, f->path);
    if (r != 0)
        return r;
    r = fifo_open_ends(f);
    if (r == 0)
        r = fifo_watch_opens(f);
    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot open the FIFO %s: %s", f->path,
                              strerror(-r));
    return 0;
}

static void unlink_own(const struct tb_fifo *f)
{
    struct stat st;

    if (f->path && lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino)
        (void)unlink(f->path);
}

static void count_open(struct tb_fifo *f)
{
    if (f->opens++ > 0)
        return;
    unlink_own(f);
    f->read_fd = tb_close(f->read_fd);
}

unsigned tb_fifo_opened(struct tb_fifo *f)
{
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n;

    assert(f->watch_fd >= 0);
    while ((n = read(f->watch_fd, buf, sizeof(buf))) > 0) {
        const struct inotify_event *e;

        for (char *p = buf; p < buf + n; p += sizeof(*e) + e->len) {
            e = (const struct inotify_event *)p;
            if (e->wd == f->watch && (e->mask & IN_OPEN))
                count_open(f);
        }
    }
    return f->opens;
}

void tb_fifo_clear(struct tb_fifo *f)
{
    unlink_own(f);
    f->write_fd = tb_close(f->write_fd);
    f->read_fd = tb_close(f->read_fd);
    f->watch_fd = tb_close(f->watch_fd);
}
