/* SPDX-License-Identifier: Apache-2.0 */
/* How many tokens responses had (Responses API), by id: a request that continues one has them in its prompt.
 * Remembers some thousand, and forgets in favour of those that come. Pure. */
#ifndef TB_PROXY_USAGE_RESPONSE_SIZES_H
#define TB_PROXY_USAGE_RESPONSE_SIZES_H

#include <stdbool.h>
#include <stdint.h>

#include "proxy/usage/json_scan.h"

#define TB_RESPONSE_SIZES 4096

/* Zero-initialise. */
struct tb_response_sizes {
    struct {
        char id[TB_JSON_SCAN_VALUE + 1]; /* "": free */
        uint64_t tokens;
    } entry[TB_RESPONSE_SIZES];
};

/* id: as tb_json_scan gives it, whole. UINT64_MAX: nobody can say. */
void tb_response_sizes_note(struct tb_response_sizes *s, const char *id, uint64_t tokens);
/* UINT64_MAX: not known. */
uint64_t tb_response_sizes_find(const struct tb_response_sizes *s, const char *id);

#endif
