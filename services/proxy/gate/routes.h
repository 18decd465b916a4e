/* SPDX-License-Identifier: Apache-2.0 */
/* Which paths reach the runtime: TB_ROUTES, an allow-list of globs, comma-separated; `*` matches any run
 * of characters, slashes too. Runtimes have administrative routes: those of the built-in table are opened
 * by no wildcard, only by their exact path in TB_ROUTES. */
#ifndef TB_PROXY_GATE_ROUTES_H
#define TB_PROXY_GATE_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/gate/admin_routes.h"

/* A path, decoded and normalised, against the comma-separated globs. */
enum tb_route {
    TB_ROUTE_NONE,
    TB_ROUTE_ALLOWED,
    TB_ROUTE_ADMIN
}; /* ADMIN: one that must be listed as it is, and is not */
enum tb_route tb_route_match(const char *globs, const char *path, size_t len);
/* The same with a memory: clients ask for few paths, again and again. Zero-initialise; for one list of
 * globs only. */
#define TB_ROUTE_CACHE_SLOTS 64
#define TB_ROUTE_CACHE_PATH 60
struct tb_route_cache {
    struct {
        char path[TB_ROUTE_CACHE_PATH];
        unsigned char len; /* 0: empty */
        unsigned char route, tuning;
    } slot[TB_ROUTE_CACHE_SLOTS];
};
enum tb_route tb_route_look_up(struct tb_route_cache *c, const char *globs, const char *path, size_t len);
/* What tb_tuning_route() says of the path, remembered with it. */
enum tb_tuning tb_route_tuning(const struct tb_route_cache *c, const char *path, size_t len);
/* Checks TB_ROUTES itself: each glob starts with `/`. NULL when fine, else why not. */
const char *tb_routes_check(const char *globs);

#endif
