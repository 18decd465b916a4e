/* SPDX-License-Identifier: Apache-2.0 */
#include "tbenc/stream.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "common/io.h"

#define PIPE_BYTES (1024 * 1024) /* the default limit for users without privilege */

int tbenc_source_init(struct tbenc_source *s, int fd, int wake_fd)
{
    struct stat st;
    off_t at;

    if (fstat(fd, &st) < 0)
        return -errno;
    *s = (struct tbenc_source){.fd = fd, .wake_fd = wake_fd};
    if (!S_ISREG(st.st_mode))
        return 0;
    at = lseek(fd, 0, SEEK_CUR);
    if (at < 0)
        return -errno;
    s->seekable = true;
    s->base = (uint64_t)at;
    return 0;
}

/* Until there is something to read, or a reason to give up. */
static int stream_wait(const struct tbenc_source *s)
{
    struct pollfd p[2] = {{.fd = s->fd, .events = POLLIN}, {.fd = s->wake_fd, .events = POLLIN}};

    while (poll(p, 2, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return p[1].revents ? -ECANCELED : 0;
}

ssize_t tbenc_source_read(struct tbenc_source *s, void *buf, size_t n)
{
    size_t done = 0;

    if (s->seekable)
        return tb_read_full(s->fd, buf, n);
    while (done < n) {
        ssize_t k;
        int r = stream_wait(s);

        if (r < 0)
            return r;
        k = read(s->fd, (char *)buf + done, n - done);
        if (k == 0)
            break;
        if (k < 0 && errno != EINTR && errno != EAGAIN)
            return -errno;
        done += (size_t)MAX(k, 0);
    }
    return (ssize_t)done;
}

ssize_t tbenc_source_pread(const struct tbenc_source *s, void *buf, size_t n, uint64_t off)
{
    return tb_pread_full(s->fd, buf, n, s->base + off);
}

int tbenc_sink_init(struct tbenc_sink *s, int fd)
{
    struct stat st;
    int n;

    if (fstat(fd, &st) < 0)
        return -errno;
    *s = (struct tbenc_sink){.fd = fd};
    if (!S_ISFIFO(st.st_mode))
        return 0;
    n = fcntl(fd, F_GETPIPE_SZ);
    if (n >= 0 && n < PIPE_BYTES) {
        (void)fcntl(fd, F_SETPIPE_SZ, PIPE_BYTES); /* may be over the user's limit: then it stays as it is */
        n = fcntl(fd, F_GETPIPE_SZ);
    }
    if (n > 0) {
        s->pipe = true;
        s->pipe_bytes = (size_t)n;
    }
    return 0;
}

static int stream_wait_writable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};

    while (poll(&p, 1, -1) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

int tbenc_sink_write(struct tbenc_sink *s, const void *buf, size_t n, bool lend)
{
    struct iovec v = {.iov_base = (void *)buf, .iov_len = n};

    while (v.iov_len > 0) {
        ssize_t k = lend && s->pipe ? vmsplice(s->fd, &v, 1, 0) : write(s->fd, v.iov_base, v.iov_len);

        if (k < 0 && errno == EAGAIN) {
            int r = stream_wait_writable(s->fd);

            if (r < 0)
                return r;
            continue;
        }
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -errno;
        v.iov_base = (char *)v.iov_base + k;
        v.iov_len -= (size_t)k;
    }
    return 0;
}
