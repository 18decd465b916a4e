/* SPDX-License-Identifier: Apache-2.0 */
#include "common/hex.h"

#include <string.h>

/* 0..15 for a hex digit, else a value with bit 8 set; no branch and no table depends on c. */
static unsigned hex_value(unsigned char c)
{
    unsigned num = (unsigned)c ^ 48, num_ok = (num - 10) >> 8;
    unsigned alpha = ((unsigned)c & ~32U) - 55, alpha_ok = ((alpha - 10) ^ (alpha - 16)) >> 8;

    num_ok &= 0xff;
    alpha_ok &= 0xff;
    return (num_ok & num) | (alpha_ok & alpha) | ((~(num_ok | alpha_ok) & 0xff) << 8);
}

int tb_hex_decode(const char *hex, size_t hex_len, uint8_t *out, size_t n)
{
    unsigned bad = 0;

    if (hex_len != 2 * n)
        return -EINVAL;
    for (size_t i = 0; i < n; i++) {
        unsigned hi = hex_value((unsigned char)hex[2 * i]), lo = hex_value((unsigned char)hex[2 * i + 1]);

        bad |= (hi | lo) >> 8;
        out[i] = (uint8_t)(hi << 4 | (lo & 0xf));
    }
    if (bad) {
        explicit_bzero(out, n);
        return -EINVAL;
    }
    return 0;
}

void tb_hex_encode(const uint8_t *in, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++) {
        unsigned hi = in[i] >> 4, lo = in[i] & 0xf;

        out[2 * i] = (char)(87 + hi + (((hi - 10) >> 8) & ~38U));
        out[2 * i + 1] = (char)(87 + lo + (((lo - 10) >> 8) & ~38U));
    }
    out[2 * n] = '\0';
}
