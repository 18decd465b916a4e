/* SPDX-License-Identifier: Apache-2.0 */
/* TB_ROUTES and a path: the first line and the rest. A wildcard never opens an administrative path, however it is spelt; the cache
 * says what the match says. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "proxy/gate/admin_routes.h"
#include "proxy/gate/glob.h"
#include "proxy/gate/routes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Slashes doubled, letters turned, one more at the end: still the same path to some. */
static void check_spellings(const char *path, size_t len, bool admin)
{
    char *other = malloc(2 * len + 1);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        char c = path[i];

        other[n++] = c >= 'a' && c <= 'z' ? (char)(c & ~0x20) : c >= 'A' && c <= 'Z' ? (char)(c | 0x20) : c;
        if (c == '/')
            other[n++] = '/';
    }
    if (len > 0)
        other[n++] = '/';
    if (n < 400 && len > 0 && path[0] == '/' && tb_admin_route(other, n) != admin)
        abort();
    free(other);
}

/* By trying each place of each star. */
static bool slow_match(const char *g, size_t gn, const char *s, size_t n, unsigned *budget)
{
    if (*budget == 0)
        return false;
    --*budget;
    if (gn == 0)
        return n == 0;
    if (*g == '*') {
        for (size_t i = 0; i <= n; i++)
            if (slow_match(g + 1, gn - 1, s + i, n - i, budget))
                return true;
        return false;
    }
    return n > 0 && *g == *s && slow_match(g + 1, gn - 1, s + 1, n - 1, budget);
}

static void check_glob(const char *g, size_t gn, const char *s, size_t n)
{
    unsigned budget = 20000;
    bool slow = slow_match(g, gn, s, n, &budget);

    if (budget > 0 && slow != tb_glob_match(g, gn, s, n))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nl = memchr(data, '\n', size);
    size_t globs_len = nl ? (size_t)(nl - data) : size, len = nl ? size - globs_len - 1 : 0;
    char *globs = strndup((const char *)data, globs_len), *path = malloc(len ? len : 1);
    static struct tb_route_cache cache;
    bool admin;
    enum tb_route r;

    memcpy(path, data + (nl ? globs_len + 1 : 0), len); /* of its own size: reading too far is seen */
    admin = tb_admin_route(path, len);
    check_spellings(path, len, admin);
    check_glob(globs, strlen(globs), path, len);
    r = tb_route_match(globs, path, len);
    if (r == TB_ROUTE_ALLOWED && admin &&
        (!memmem(globs, strlen(globs), path, len) || memchr(path, '*', len)))
        abort();
    if (r == TB_ROUTE_ADMIN && !admin)
        abort();
    memset(&cache, 0, sizeof(cache));
    if (tb_route_look_up(&cache, globs, path, len) != r || tb_route_look_up(&cache, globs, path, len) != r)
        abort();
    if (!tb_routes_check(globs) && *globs == '\0')
        abort();
    free(globs);
    free(path);
    return 0;
}
