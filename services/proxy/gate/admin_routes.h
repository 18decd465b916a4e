/* SPDX-License-Identifier: Apache-2.0 */
/* Paths by which runtimes are administered. */
#ifndef TB_PROXY_GATE_ADMIN_ROUTES_H
#define TB_PROXY_GATE_ADMIN_ROUTES_H

#include <stdbool.h>
#include <stddef.h>

/* True for a path, decoded, that one of the runtimes we know documents as administration: it changes what
 * others get, or shows their requests. Case, doubled and trailing slashes do not matter: some runtimes,
 * and what may stand before them, ignore those. */
bool tb_admin_route(const char *path, size_t len);

/* Is it about another model made from this one? Compared in the same way. */
enum tb_tuning {
    TB_TUNING_NONE,
    TB_TUNING_TRAINS,
    TB_TUNING_ADAPTS, /* puts into the runtime what was trained somewhere */
};
enum tb_tuning tb_tuning_route(const char *path, size_t len);

#endif
