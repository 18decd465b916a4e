/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/gate/glob.h"

#include <stdint.h>

/* Greedy wildcard match with one point to return to: linear in practice, no recursion. */
bool tb_glob_match(const char *glob, size_t glob_len, const char *s, size_t len)
{
    size_t g = 0, i = 0, star = SIZE_MAX, mark = 0;

    /* Most do not even end alike. */
    if (glob_len > 0 && glob[glob_len - 1] != '*' && (len == 0 || s[len - 1] != glob[glob_len - 1]))
        return false;
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
