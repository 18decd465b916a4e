/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/routes.h"

#include <stdlib.h>
#include <string.h>

#include "common/hex.h"
#include "common/macros.h"
#include "proxy/gate/admin_routes.h"
#include "proxy/gate/glob.h"

/* The byte at path[*i], decoded; *i moves to the next. -1 for a bad percent sign. */
static int route_next_byte(const char *path, size_t len, size_t *i)
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
        int c = route_next_byte(target, len, &i);

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

enum tb_route tb_route_match(const char *globs, const char *path, size_t len)
{
    enum tb_route found = TB_ROUTE_NONE;

    for (const char *g = globs; *g;) {
        size_t n;

        g += strspn(g, ", \t");
        n = strcspn(g, ", \t");
        if (n > 0 && n == len && memcmp(g, path, n) == 0 && !memchr(g, '*', n))
            return TB_ROUTE_ALLOWED;
        if (n > 0 && tb_glob_match(g, n, path, len))
            found = TB_ROUTE_ALLOWED;
        g += n;
    }
    return found == TB_ROUTE_ALLOWED && tb_admin_route(path, len) ? TB_ROUTE_ADMIN : found;
}

enum tb_route tb_route_match_encoded(const char *globs, const char *path, size_t len)
{
    _cleanup_free_ char *plain = malloc(len + 1);
    size_t n = 0;

    if (!plain)
        return TB_ROUTE_NONE;
    for (size_t i = 0; i < len;) {
        int c = route_next_byte(path, len, &i);

        if (c < 0)
            return TB_ROUTE_NONE;
        plain[n++] = (char)c;
    }
    return tb_route_match(globs, plain, n);
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
