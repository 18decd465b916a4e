/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/routes.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/hex.h"
#include "common/macros.h"

/* The byte at path[*i], decoded; *i moves to the next. -1 for a bad percent sign. */
static int next_byte(const char *path, size_t len, size_t *i)
{
    int hi, lo;

    if (path[*i] != '%')
        return (unsigned char)path[(*i)++];
    if (len - *i < 3)
        return -1;
    hi = tb_hex_digit(path[*i + 1]);
    lo = tb_hex_digit(path[*i + 2]);
    *i += 3;
    return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

const char *tb_target_check(const char *target, size_t *ret_path_len)
{
    size_t len = strcspn(target, "?"), segment = 0, dots = 0;

    if (target[0] != '/')
        return "the request target must be a path";
    for (const char *p = target; *p; p++)
        if ((unsigned char)*p <= 0x20 || (unsigned char)*p >= 0x7f || *p == '#')
            return "the request target has a character that must be percent-encoded";
    for (size_t i = 1; i < len;) {
        bool encoded = target[i] == '%';
        int c = next_byte(target, len, &i);

        if (c < 0)
            return "the path has a bad percent sign";
        if (c == '\0' || c == '\\' || (c == '/' && encoded))
            return "the path has an encoded slash, a backslash or a NUL";
        if (c == '/' && segment > 0 && dots == segment && dots <= 2)
            return "the path has a dot segment";
        segment = c == '/' ? 0 : segment + 1;
        dots = c == '.' ? dots + 1 : c == '/' ? 0 : dots;
    }
    if (segment > 0 && dots == segment && dots <= 2)
        return "the path has a dot segment";
    *ret_path_len = len;
    return NULL;
}

/* Greedy wildcard match with one point to return to: linear in practice, no recursion. */
static bool glob_match(const char *glob, size_t glob_len, const char *s, size_t len)
{
    size_t g = 0, i = 0, star = SIZE_MAX, mark = 0;

    while (i < len) {
        if (g < glob_len && glob[g] == '*') {
            star = g++;
            mark = i;
        } else if (g < glob_len && glob[g] == s[i]) {
            g++;
            i++;
        } else if (star != SIZE_MAX) {
            g = star + 1;
            i = ++mark;
        } else {
            return false;
        }
    }
    while (g < glob_len && glob[g] == '*')
        g++;
    return g == glob_len;
}

bool tb_route_allowed(const char *globs, const char *path, size_t len)
{
    _cleanup_free_ char *plain = malloc(len + 1);
    size_t n = 0;

    if (!plain)
        return false;
    for (size_t i = 0; i < len;) {
        int c = next_byte(path, len, &i);

        if (c < 0)
            return false;
        plain[n++] = (char)c;
    }
    for (const char *g = globs; *g;) {
        size_t glob_len;

        g += strspn(g, ", \t");
        glob_len = strcspn(g, ", \t");
        if (glob_len > 0 && glob_match(g, glob_len, plain, n))
            return true;
        g += glob_len;
    }
    return false;
}

const char *tb_routes_check(const char *globs)
{
    bool any = false;

    for (const char *g = globs; *g;) {
        size_t len;

        g += strspn(g, ", \t");
        len = strcspn(g, ", \t");
        if (len == 0)
            break;
        if (*g != '/' && *g != '*')
            return "each route starts with a slash, as in /v1/*";
        any = true;
        g += len;
    }
    return any ? NULL : "no route is given; the default is /v1/*";
}
