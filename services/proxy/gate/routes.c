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

static size_t route_slot(const char *path, size_t len)
{
    unsigned hash = 0;

    for (size_t i = 0; i < len; i++)
        hash = hash * 31 + (unsigned char)path[i];
    return hash % TB_ROUTE_CACHE_SLOTS;
}

enum tb_route tb_route_look_up(struct tb_route_cache *c, const char *globs, const char *path, size_t len)
{
    size_t i;

    if (len == 0 || len > TB_ROUTE_CACHE_PATH)
        return tb_route_match(globs, path, len);
    i = route_slot(path, len);
    if (c->slot[i].len != len || memcmp(c->slot[i].path, path, len) != 0) {
        c->slot[i].route = (unsigned char)tb_route_match(globs, path, len);
        c->slot[i].tuning = (unsigned char)tb_tuning_route(path, len);
        memcpy(c->slot[i].path, path, len);
        c->slot[i].len = (unsigned char)len;
    }
    return c->slot[i].route;
}

enum tb_tuning tb_route_tuning(const struct tb_route_cache *c, const char *path, size_t len)
{
    size_t i = len > 0 && len <= TB_ROUTE_CACHE_PATH ? route_slot(path, len) : 0;

    if (len > 0 && c->slot[i].len == len && memcmp(c->slot[i].path, path, len) == 0)
        return (enum tb_tuning)c->slot[i].tuning;
    return tb_tuning_route(path, len);
}

/* What a path never has, and so a route that nothing goes by. */
static const char *route_check(const char *g, size_t len)
{
    if (*g != '/' && *g != '*')
        return "each route starts with a slash, as in /v1/*";
    if (memchr(g, '?', len) || memchr(g, '#', len))
        return "a route is a path without ? and #, and is for any query";
    if (memmem(g, len, ".*", 2) || memmem(g, len, "(", 1) || g[len - 1] == '$')
        return "a route is no regular expression; * stands for any characters, as in /v1/*";
    if (memmem(g, len, ";/", 2) || g[len - 1] == ';')
        return "routes are separated by commas, as in /v1/*,/metrics";
    return NULL;
}

const char *tb_routes_check(const char *globs)
{
    bool any = false;

    for (const char *g = globs; *g;) {
        const char *why;
        size_t len;

        g += strspn(g, ", \t");
        len = strcspn(g, ", \t");
        if (len == 0)
            break;
        why = route_check(g, len);
        if (why)
            return why;
        any = true;
        g += len;
    }
    return any ? NULL : "no route is given; the default is /v1/*";
}
