/* SPDX-License-Identifier: Apache-2.0 */
#include "common/id.h"

#include <string.h>

#define ID_CHARS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

bool tb_id_valid(const char *s)
{
    size_t n = strspn(s, ID_CHARS);

    return n >= 1 && n <= TB_ID_MAX && s[n] == '\0';
}

bool tb_asset_id_valid(const char *s)
{
    for (const char *at = s;; at++) {
        size_t n = strspn(at, ID_CHARS);

        at += n;
        if (n == 0 || at - s > TB_ID_MAX)
            return false;
        if (*at != '.')
            return *at == '\0';
    }
}
