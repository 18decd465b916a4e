/* SPDX-License-Identifier: Apache-2.0 */
#include "common/percent.h"

#include <assert.h>
#include <string.h>

size_t tb_percent_encode_char(char c, const char *keep, char out[static TB_PERCENT_CHAR_MAX])
{
    static const char digits[] = "0123456789ABCDEF";
    unsigned char u = (unsigned char)c;

    assert(c != '\0');
    if ((u >= '0' && u <= '9') || (u >= 'A' && u <= 'Z') || (u >= 'a' && u <= 'z') || strchr("-._~", c) ||
        strchr(keep, c)) {
        out[0] = c;
        out[1] = '\0';
        return 1;
    }
    out[0] = '%';
    out[1] = digits[u >> 4];
    out[2] = digits[u & 15];
    out[3] = '\0';
    return 3;
}
