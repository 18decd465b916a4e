/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "verify/claims.h"

#define LISTENING 0x0A /* TCP_LISTEN */
#define ADDRESS_MAX 32 /* hex digits of an IPv6 address */

static const char *line_next(const char *p)
{
    p = strchr(p, '\n');
    return p && p[1] ? p + 1 : NULL;
}

unsigned verify_swaps_parse(const char *text, char name[static 64])
{
    unsigned n = 0;

    name[0] = '\0';
    for (const char *p = line_next(text); p; p = line_next(p)) {
        char area[64];

        /* Compressed memory is memory. */
        if (sscanf(p, "%63s", area) != 1 || strncmp(area, "/dev/zram", 9) == 0)
            continue;
        if (n++ == 0)
            strcpy(name, area);
    }
    return n;
}

int verify_core_limit_parse(const char *text, uint64_t *ret)
{
    static const char label[] = "Max core file size";
    const char *p = strstr(text, label);
    char word[32];

    if (!p || (p != text && p[-1] != '\n') || sscanf(p + strlen(label), " %31s", word) != 1)
        return -EBADMSG;
    if (strcmp(word, "unlimited") == 0) {
        *ret = UINT64_MAX;
        return 0;
    }
    return sscanf(word, "%" SCNu64, ret) == 1 ? 0 : -EBADMSG;
}

int verify_status_parse(const char *text, const char *name, uint64_t *ret)
{
    size_t n = strlen(name);

    for (const char *p = text; p; p = line_next(p))
        if (strncmp(p, name, n) == 0 && p[n] == ':')
            return sscanf(p + n + 1, "%" SCNu64, ret) == 1 ? 0 : -ENOENT;
    return -ENOENT;
}

/* As the kernel prints it: words of the machine's byte order. */
static int address_is_loopback(const char *hex)
{
    static const char v6[] = "00000000000000000000000001000000", mapped[] = "0000000000000000FFFF0000";

    if (strlen(hex) == 8)
        return strcmp(hex + 6, "7F") == 0;
    return strcmp(hex, v6) == 0 || (strncmp(hex, mapped, strlen(mapped)) == 0 && strcmp(hex + 30, "7F") == 0);
}

static size_t ports_add(uint16_t *ports, size_t n, size_t max, uint16_t port)
{
    size_t i = 0;

    while (i < n && ports[i] < port)
        i++;
    if ((i < n && ports[i] == port) || n == max)
        return n;
    memmove(ports + i + 1, ports + i, (n - i) * sizeof(*ports));
    ports[i] = port;
    return n + 1;
}

size_t verify_listeners_parse(const char *text, uint16_t *ret, size_t max)
{
    size_t n = 0;

    for (const char *p = line_next(text); p; p = line_next(p)) {
        char address[ADDRESS_MAX + 1];
        unsigned port, state;

        if (sscanf(p, " %*[0-9]: %32[0-9A-F]:%4x %*[0-9A-F]:%*x %2x", address, &port, &state) == 3 &&
            state == LISTENING && !address_is_loopback(address))
            n = ports_add(ret, n, max, (uint16_t)port);
    }
    return n;
}
