/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/address.h"

#include <netdb.h>
#include <string.h>
#include <sys/un.h>

#include "common/macros.h"

static int parse_unix(struct tb_address *u, const char *path)
{
    struct sockaddr_un *un = (struct sockaddr_un *)&u->addr;

    if (*path != '/' || strlen(path) >= sizeof(un->sun_path))
        return -EINVAL;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, strlen(path) + 1);
    u->addr_len = sizeof(*un);
    memcpy(u->host, "localhost", 10);
    return 0;
}

static int parse_http(struct tb_address *u, const char *rest)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *ai = NULL;
    size_t host_len = strcspn(rest, "/"), prefix_len = strlen(rest + host_len);
    char name[256], *port;

    if (host_len == 0 || host_len >= sizeof(name) || prefix_len >= sizeof(u->prefix))
        return -EINVAL;
    memcpy(name, rest, host_len);
    name[host_len] = '\0';
    memcpy(u->host, name, host_len + 1);
    memcpy(u->prefix, rest + host_len, prefix_len + 1);
    while (prefix_len > 0 && u->prefix[prefix_len - 1] == '/')
        u->prefix[--prefix_len] = '\0';
    port = strrchr(name, ':');
    if (port && !strchr(port, ']'))
        *port++ = '\0';
    else
        port = NULL;
    if (name[0] == '[' && strlen(name) > 2) {
        name[strlen(name) - 1] = '\0';
        memmove(name, name + 1, strlen(name));
    }
    if (getaddrinfo(name, port ? port : "80", &hints, &ai) != 0)
        return -EINVAL;
    memcpy(&u->addr, ai->ai_addr, ai->ai_addrlen);
    u->addr_len = ai->ai_addrlen;
    freeaddrinfo(ai);
    return 0;
}

int tb_address_parse(const char *url, struct tb_address *ret)
{
    struct tb_address a = {0};
    int r = -EINVAL;

    if (strncmp(url, "unix:", 5) == 0)
        r = parse_unix(&a, url + 5);
    else if (strncmp(url, "http://", 7) == 0)
        r = parse_http(&a, url + 7);
    if (r >= 0)
        *ret = a;
    return r;
}
