/* SPDX-License-Identifier: Apache-2.0 */
#include "common/inet.h"

#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#include "common/macros.h"
#include "common/units.h"

int tb_inet_split(const char *addr, char host[static TB_INET_HOST_MAX], char port[static TB_INET_PORT_MAX])
{
    const char *colon = strrchr(addr, ':');
    size_t n = colon ? (size_t)(colon - addr) : 0;
    uint64_t number;

    if (!colon || tb_uint_parse(colon + 1, 0, 65535, &number) < 0)
        return -EINVAL;
    if (*addr == '[') {
        if (n < 3 || addr[n - 1] != ']')
            return -EINVAL;
        addr++;
        n -= 2;
    } else if (memchr(addr, ':', n)) {
        return -EINVAL;
    }
    if (n >= TB_INET_HOST_MAX)
        return -EINVAL;
    memcpy(host, addr, n);
    host[n] = '\0';
    snprintf(port, TB_INET_PORT_MAX, "%u", (unsigned)number);
    return 0;
}

static int inet_bind(const struct addrinfo *ai, bool both, int backlog)
{
    _cleanup_close_ int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1, only = !both;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
        return -errno;
    if (ai->ai_family == AF_INET6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof(only)) < 0)
        return -errno;
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, backlog) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* Every address: one socket of IPv6 takes IPv4 too. Where there is no IPv6, one of IPv4. */
static int inet_listen_any(const char *port, int backlog)
{
    static const int families[] = {AF_INET6, AF_INET};
    int r = -EAFNOSUPPORT;

    for (size_t i = 0; i < ARRAY_SIZE(families) && (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL); i++) {
        struct addrinfo hints = {.ai_family = families[i],
                                 .ai_socktype = SOCK_STREAM,
                                 .ai_flags = AI_PASSIVE | AI_NUMERICSERV | AI_NUMERICHOST},
                        *ai;

        if (getaddrinfo(NULL, port, &hints, &ai) != 0)
            continue;
        r = inet_bind(ai, true, backlog);
        freeaddrinfo(ai);
    }
    return r;
}

int tb_inet_listen(const char *addr, int backlog, char err[static TB_INET_ERR_MAX])
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *ai;
    char host[TB_INET_HOST_MAX], port[TB_INET_PORT_MAX];
    int r = tb_inet_split(addr, host, port);

    if (r < 0) {
        snprintf(err, TB_INET_ERR_MAX, "%.80s is not host:port, [v6]:port or :port", addr);
        return r;
    }
    if (*host == '\0') {
        r = inet_listen_any(port, backlog);
    } else {
        int e = getaddrinfo(host, port, &hints, &ai);

        if (e != 0) {
            snprintf(err, TB_INET_ERR_MAX, "%.80s: %s", addr, gai_strerror(e));
            return -EHOSTUNREACH;
        }
        r = inet_bind(ai, false, backlog);
        freeaddrinfo(ai);
    }
    if (r < 0)
        snprintf(err, TB_INET_ERR_MAX, "cannot listen on %.80s: %s", addr, strerror(-r));
    return r;
}
