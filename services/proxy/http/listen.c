/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/listen.h"

#include <fcntl.h>

#include "common/fdpass.h"
#include "common/inet.h"
#include "common/macros.h"

#define BACKLOG 4096

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
