/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/listen.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "common/fdpass.h"
#include "common/macros.h"

#define BACKLOG 4096

/* "host:port" into its halves; an empty host is every address. */
static int split(char *addr, char **ret_host, char **ret_port)
{
    char *colon = strrchr(addr, ':');

    if (!colon)
        return -EINVAL;
    *colon = '\0';
    *ret_port = colon + 1;
    *ret_host = addr;
    if (*addr == '[') {
        if (colon[-1] != ']')
            return -EINVAL;
        colon[-1] = '\0';
        *ret_host = addr + 1;
    }
    if (!**ret_host)
        *ret_host = NULL;
    return 0;
}

static int bind_new(const char *addr)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *ai = NULL;
    _cleanup_free_ char *copy = strdup(addr);
    _cleanup_close_ int fd = -1;
    char *host, *port;
    int r, one = 1;

    if (!copy)
        return -ENOMEM;
    r = split(copy, &host, &port);
    if (r < 0)
        return r;
    if (getaddrinfo(host, port, &hints, &ai) != 0)
        return -EINVAL;
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    r = fd < 0 ? -errno : 0;
    if (r == 0 && (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
                   bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0))
        r = -errno;
    freeaddrinfo(ai);
    return r < 0 ? r : TAKE_FD(fd);
}

int tb_listen_open(const char *name, const char *addr, int taken)
{
    int fd = tb_listen_fd(name), flags;

    if (fd == -ENOENT || fd == taken)
        fd = bind_new(addr);
    if (fd < 0)
        return fd;
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return -errno;
    return fd;
}
