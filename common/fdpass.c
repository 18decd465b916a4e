/* SPDX-License-Identifier: Apache-2.0 */
#include "common/fdpass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"

#define CREDENTIAL_MAX (64 * 1024)

int tb_fd_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * TB_FDPASS_MAX)];
        struct cmsghdr align;
    } control;
    struct iovec iov = {(void *)buf, len};
    struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t n;

    if (n_fds > TB_FDPASS_MAX)
        return -EINVAL;
    if (n_fds > 0) {
        struct cmsghdr *c;

        memset(&control, 0, sizeof(control));
        mh.msg_control = control.space;
        mh.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
        c = CMSG_FIRSTHDR(&mh);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
    }
    do
        n = sendmsg(sock, &mh, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -EMSGSIZE;
}

static size_t fdpass_take(struct msghdr *mh, int *fds, size_t cap, int *overflow)
{
    size_t n = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c; c = CMSG_NXTHDR(mh, c)) {
        size_t count;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (n < cap) {
                fds[n++] = fd;
            } else {
                close(fd);
                *overflow = 1;
            }
        }
    }
    return n;
}

ssize_t tb_fd_recv(int sock, void *buf, size_t len, int *fds, size_t *n_fds)
{
    union {
        char space[CMSG_SPACE(sizeof(int) * (TB_FDPASS_MAX + 3))];
        struct cmsghdr align;
    } control;
    struct iovec iov = {buf, len};
    struct msghdr mh = {.msg_iov = &iov,
                        .msg_iovlen = 1,
                        .msg_control = control.space,
                        .msg_controllen = sizeof(control.space)};
    int overflow = 0;
    size_t got;
    ssize_t n;

    do
        n = recvmsg(sock, &mh, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    got = fdpass_take(&mh, fds, *n_fds, &overflow);
    if (overflow || mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (size_t i = 0; i < got; i++)
            close(fds[i]);
        return -EMSGSIZE;
    }
    *n_fds = got;
    return n;
}

int tb_listen_fd_count(void)
{
    int n = sd_listen_fds(0);

    return n < 0 ? 0 : n;
}

int tb_listen_fd(const char *name)
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(0, &names), fd = -ENOENT;

    for (int i = 0; i < n; i++) {
        bool unnamed =
            n == 1 && strcmp(names[i], "unknown") == 0; /* sd_listen_fds' word for no LISTEN_FDNAMES */

        if (fd < 0 && (unnamed || strcmp(names[i], name) == 0))
            fd = SD_LISTEN_FDS_START + i;
        free(names[i]);
    }
    free(names);
    return fd;
}

static int unix_address(const char *path, struct sockaddr_un *sa)
{
    *sa = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(sa->sun_path))
        return -ENAMETOOLONG;
    memcpy(sa->sun_path, path, strlen(path) + 1);
    return 0;
}

int tb_unix_connect(const char *path, int type)
{
    _cleanup_close_ int fd = -1;
    struct sockaddr_un sa;
    int r = unix_address(path, &sa);

    if (r < 0)
        return r;
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int tb_unix_listen(const char *path, int type, mode_t mode)
{
    _cleanup_close_ int fd = -1;
    struct sockaddr_un sa;
    struct stat st;
    mode_t old;
    int r = unix_address(path, &sa);

    if (r < 0)
        return r;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        (void)unlink(path);
    fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* The socket must never exist with wider permissions than asked for. */
    old = umask(~mode & 0777);
    r = bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0 ? -errno : 0;
    (void)umask(old);
    if (r < 0)
        return r;
    if (listen(fd, 128) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int tb_listen_or_bind(const char *name, const char *run_dir, int type, char **ret_path)
{
    _cleanup_free_ char *path = NULL;
    char file[64];
    int fd = tb_listen_fd(name);

    if (fd >= 0)
        return fd;
    /* To bind the path beside a socket that systemd holds there would cut off whoever connects to that
     * one. */
    if (tb_listen_fd_count() > 0) {
        tb_error("no inherited listener is named %s; set FileDescriptorName=%s in its socket unit", name,
                 name);
        return -EINVAL;
    }
    snprintf(file, sizeof(file), "tb-%s.sock", name);
    path = tb_path_join(run_dir, file);
    if (!path)
        return -ENOMEM;
    fd = tb_mkdir_p(run_dir, 0755);
    if (fd >= 0)
        fd = tb_unix_listen(path, type, 0600);
    if (fd < 0)
        return tb_error_errno(fd, "cannot listen on %s", path);
    if (ret_path)
        *ret_path = TAKE_PTR(path);
    return fd;
}

int tb_credential_read(const char *name, char **ret, size_t *ret_len)
{
    const char *dir = getenv("CREDENTIALS_DIRECTORY");
    _cleanup_free_ char *path = NULL;
    _cleanup_secret_ char *buf = NULL;
    _cleanup_close_ int fd = -1;
    ssize_t n;

    if (!dir || !*dir)
        return -ENXIO;
    path = tb_path_join(dir, name);
    buf = tb_secret_alloc(CREDENTIAL_MAX + 2);
    if (!path || !buf)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    n = tb_read_full(fd, buf, CREDENTIAL_MAX + 1);
    if (n < 0)
        return (int)n;
    if (n == 0)
        return -EACCES;
    if (n > CREDENTIAL_MAX)
        return -EFBIG;
    *ret = TAKE_PTR(buf);
    *ret_len = (size_t)n;
    return 0;
}
