/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/listen.h"

#include <fcntl.h>
#include <netdb.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/socket.h>

#include "common/fdpass.h"
#include "common/inet.h"
#include "common/macros.h"

#define BACKLOG 4096
#ifndef SO_NETNS_COOKIE /* of Linux 5.14, and of newer headers */
#define SO_NETNS_COOKIE 71
#endif

int tb_listen_open(const char *name, const char *addr, int taken)
{
    int fd = tb_listen_fd(name), flags;
    char err[TB_INET_ERR_MAX];

    if (fd == -ENOENT || fd == taken)
        fd = tb_inet_listen(addr, BACKLOG, err);
    if (fd < 0)
        return fd;
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return fd;
}

bool tb_listen_apart(int fd, int other)
{
    uint64_t a, b;
    socklen_t a_len = sizeof(a), b_len = sizeof(b);

    return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &a, &a_len) == 0 &&
           getsockopt(other, SOL_SOCKET, SO_NETNS_COOKIE, &b, &b_len) == 0 && a != b;
}

void tb_listen_address(int fd, char *out, size_t size)
{
    struct sockaddr_storage a;
    socklen_t len = sizeof(a);
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];

    out[0] = '\0';
    if (getsockname(fd, (struct sockaddr *)&a, &len) < 0 ||
        (a.ss_family != AF_INET && a.ss_family != AF_INET6) ||
        getnameinfo((struct sockaddr *)&a, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return;
    snprintf(out, size, a.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}
