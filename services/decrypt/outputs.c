/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/outputs.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <linux/major.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include "common/fdpass.h"
#include "decrypt/request.h"
#include "common/units.h"
#include "decrypt/reply.h"

#define OUTPUTS_FUSE_MINOR 229 /* of /dev/fuse */

static int outputs_wait(int sock, uint64_t deadline_us)
{
    for (;;) {
        struct pollfd p = {.fd = sock, .events = POLLIN};
        uint64_t now = tb_now_monotonic_us();
        int r;

        if (now >= deadline_us)
            return -ETIMEDOUT;
        r = poll(&p, 1, (int)MIN((deadline_us - now) / 1000 + 1, 60000ULL));
        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0)
            return 0;
    }
}

/* One message with its descriptors. 0 or an exit code. */
static int outputs_receive_message(int sock, uint64_t deadline_us, void *buf, size_t *len, int *fds,
                                   size_t *n_fds, struct tb_outcome *o)
{
    ssize_t n;
    int r = outputs_wait(sock, deadline_us);

    if (r == -ETIMEDOUT)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL,
                              "the client connected but did not send its request in time");
    if (r < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot wait for the request: %s", strerror(-r));
    n = tb_fd_recv(sock, buf, *len, fds, n_fds);
    if (n == 0 || n == -ECONNRESET)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "the client went away before its request was complete");
    if (n == -EMSGSIZE)
        return tb_outcome_set(o, TB_EXIT_USAGE,
                              "the request is larger than any valid one, or its descriptors did not "
                              "fit; raise LimitNOFILE= for an asset of many files");
    if (n < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot receive the request: %s", strerror((int)-n));
    *len = (size_t)n;
    return 0;
}

static int outputs_receive_more(int sock, uint64_t deadline_us, struct tb_outputs *out, size_t want,
                                struct tb_outcome *o)
{
    while (out->n < want) {
        char byte = 0;
        size_t len = sizeof(byte), n = MIN(want - out->n, (size_t)TB_FDPASS_MAX);
        int r = outputs_receive_message(sock, deadline_us, &byte, &len, out->fd + out->n, &n, o);

        if (r != 0)
            return r;
        if (n == 0)
            return tb_outcome_set(o, TB_EXIT_USAGE, "%zu of %zu descriptors came, then a message without any",
                                  out->n, want);
        out->n += n;
    }
    return 0;
}

int tb_outputs_receive(int sock, uint64_t timeout_us, struct tb_deliver_request *ret_req,
                       struct tb_outputs *ret, struct tb_outcome *o)
{
    _cleanup_(tb_outputs_clear) struct tb_outputs out = {0};
    uint64_t deadline_us = tb_now_monotonic_us() + timeout_us;
    char buf[sizeof(struct tb_deliver_request)], err[DECRYPT_REQUEST_ERR_MAX];
    size_t len = sizeof(buf), n = TB_FDPASS_MAX;
    struct tb_deliver_request q;
    int r;

    out.fd = calloc(TBENC_FILES_MAX, sizeof(*out.fd));
    if (!out.fd)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    r = outputs_receive_message(sock, deadline_us, buf, &len, out.fd, &n, o);
    if (r != 0)
        return r;
    out.n = n;
    if (decrypt_request_parse(buf, len, n, &q, err) < 0)
        return tb_outcome_set(o, TB_EXIT_USAGE, "%s", err);
    r = outputs_receive_more(sock, deadline_us, &out, q.n_fds, o);
    if (r != 0)
        return r;
    *ret_req = q;
    *ret = out;
    out = (struct tb_outputs){0};
    return 0;
}

static int outputs_check_fifo(int fd, struct tb_outcome *o)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || fstat(fd, &st) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot look at the descriptor: %s", strerror(errno));
    if (!S_ISFIFO(st.st_mode))
        return tb_outcome_set(o, TB_EXIT_USAGE, "the descriptor is not a FIFO");
    if ((flags & O_ACCMODE) != O_WRONLY)
        return tb_outcome_set(o, TB_EXIT_USAGE,
                              "the FIFO is not opened write-only; its reader would never see the end");
    if ((flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot make the FIFO blocking: %s", strerror(errno));
    (void)fcntl(fd, F_SETPIPE_SZ, TB_OUTPUTS_PIPE_BYTES); /* only speed depends on it */
    return 0;
}

static int outputs_check_file(int fd, const char *name, struct stat *ret_st, struct tb_outcome *o)
{
    int flags = fcntl(fd, F_GETFL);
    struct statfs fs;

    if (flags < 0 || fstat(fd, ret_st) < 0 || fstatfs(fd, &fs) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot look at the descriptor for %s: %s", name,
                              strerror(errno));
    if (!S_ISREG(ret_st->st_mode))
        return tb_outcome_set(o, TB_EXIT_USAGE, "the descriptor for %s is not a regular file", name);
    if ((flags & O_ACCMODE) == O_RDONLY || (flags & (O_APPEND | O_PATH)))
        return tb_outcome_set(o, TB_EXIT_USAGE, "the descriptor for %s cannot be written at any offset",
                              name);
    if ((uint64_t)fs.f_type != TMPFS_MAGIC && (uint64_t)fs.f_type != RAMFS_MAGIC)
        return tb_outcome_set(
            o, TB_EXIT_CONFIG,
            "the file for %s is not memory-backed and plaintext must not reach a disk; use a tmpfs", name);
    return 0;
}

static int outputs_check_fuse(int fd, struct tb_outcome *o)
{
    int flags = fcntl(fd, F_GETFL);
    struct stat st;

    if (flags < 0 || fstat(fd, &st) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot look at the descriptor for the view: %s",
                              strerror(errno));
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(MISC_MAJOR, OUTPUTS_FUSE_MINOR) ||
        (flags & O_ACCMODE) != O_RDWR)
        return tb_outcome_set(o, TB_EXIT_USAGE,
                              "the descriptor for the view is not /dev/fuse, open for reading and writing");
    /* Workers wait in read(). */
    if (fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot set up the descriptor for the view: %s",
                              strerror(errno));
    return 0;
}

static bool outputs_is_loopback(const struct sockaddr_storage *a)
{
    if (a->ss_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
    return a->ss_family == AF_INET6 &&
           IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
}

static int outputs_check_listener(int fd, struct tb_outcome *o)
{
    struct sockaddr_storage a = {0};
    int type = 0, listens = 0, flags = fcntl(fd, F_GETFL);
    socklen_t n_type = sizeof(type), n_listens = sizeof(listens), n = sizeof(a);

    if (flags < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot look at the descriptor for the endpoint: %s",
                              strerror(errno));
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n_type) < 0 || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n_listens) < 0 || !listens ||
        getsockname(fd, (struct sockaddr *)&a, &n) < 0 || !outputs_is_loopback(&a))
        return tb_outcome_set(
            o, TB_EXIT_USAGE,
            "the descriptor for the endpoint is not a TCP socket that listens on a loopback address");
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return tb_outcome_set(o, TB_EXIT_IOERR, "cannot set up the descriptor for the endpoint: %s",
                              strerror(errno));
    return 0;
}

struct inode {
    dev_t dev;
    ino_t ino;
};

static int outputs_compare_inodes(const void *a, const void *b)
{
    const struct inode *x = a, *y = b;

    if (x->dev != y->dev)
        return x->dev < y->dev ? -1 : 1;
    return x->ino == y->ino ? 0 : x->ino < y->ino ? -1 : 1;
}

static int outputs_check_files(const struct tb_outputs *out, const struct tbenc_manifest *m,
                               struct tb_outcome *o)
{
    size_t want = m->files ? m->n_files : 1;
    _cleanup_free_ struct inode *seen = NULL;

    if (out->n != want)
        return tb_outcome_set(o, TB_EXIT_USAGE, "%zu descriptors came for the %zu files of the manifest",
                              out->n, want);
    seen = calloc(out->n, sizeof(*seen));
    if (!seen)
        return tb_outcome_set(o, TB_EXIT_IOERR, "out of memory");
    for (size_t i = 0; i < out->n; i++) {
        struct stat st;
        int r = outputs_check_file(out->fd[i], m->files ? m->files[i].path : m->weights_filename, &st, o);

        if (r != 0)
            return r;
        seen[i] = (struct inode){st.st_dev, st.st_ino};
    }
    qsort(seen, out->n, sizeof(*seen), outputs_compare_inodes);
    for (size_t i = 1; i < out->n; i++)
        if (outputs_compare_inodes(&seen[i - 1], &seen[i]) == 0)
            return tb_outcome_set(o, TB_EXIT_USAGE, "one file was passed twice");
    return 0;
}

int tb_outputs_check(const struct tb_outputs *out, uint32_t mode, const struct tbenc_manifest *m,
                     struct tb_outcome *o)
{
    switch (mode) {
    case TB_DELIVER_FIFO:
        return outputs_check_fifo(out->fd[0], o);
    case TB_DELIVER_VIEW:
        return outputs_check_fuse(out->fd[0], o);
    case TB_DELIVER_S3:
        return outputs_check_listener(out->fd[0], o);
    default:
        return outputs_check_files(out, m, o);
    }
}

void tb_outputs_truncate(const struct tb_outputs *out)
{
    for (size_t i = 0; i < out->n; i++)
        if (ftruncate(out->fd[i], 0) < 0)
            continue; /* a FIFO cannot be emptied: its reader is told by the status instead */
}

void tb_outputs_clear(struct tb_outputs *out)
{
    for (size_t i = 0; i < out->n; i++)
        tb_close(out->fd[i]);
    free(out->fd);
    *out = (struct tb_outputs){0};
}
