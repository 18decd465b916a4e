/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/routes.h"

#include <string.h>

#include "proxy/gate/admin_routes.h"
#include "proxy/gate/glob.h"

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
