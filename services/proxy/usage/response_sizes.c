/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/response_sizes.h"

#include <string.h>

#define NOT_ASCII '\x7f' /* what the scanner puts for a byte that it does not keep */

/* FNV-1a. Who finds two ids of one place makes the proxy forget one of them, which costs only himself. */
static size_t response_place(const char *id)
{
    uint32_t h = 2166136261U;

    while (*id)
        h = (h ^ (uint8_t)*id++) * 16777619U;
    return h % TB_RESPONSE_SIZES;
}

/* One that another may look the same as is not remembered. */
static bool response_id_is_plain(const char *id)
{
    return *id && !strchr(id, NOT_ASCII);
}

void tb_response_sizes_note(struct tb_response_sizes *s, const char *id, uint64_t tokens)
{
    size_t i = response_place(id);

    if (!response_id_is_plain(id))
        return;
    /* A client may choose the id, and give it twice: either may be meant. */
    if (strcmp(s->entry[i].id, id) == 0 && s->entry[i].tokens > tokens)
        return;
    strcpy(s->entry[i].id, id);
    s->entry[i].tokens = tokens;
}

uint64_t tb_response_sizes_find(const struct tb_response_sizes *s, const char *id)
{
    size_t i = response_place(id);

    return response_id_is_plain(id) && strcmp(s->entry[i].id, id) == 0 ? s->entry[i].tokens : UINT64_MAX;
}
