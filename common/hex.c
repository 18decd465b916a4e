/* SPDX-License-Identifier: Apache-2.0 */
#include "common/hex.h"

#include <endian.h>
#include <string.h>

#include "common/bytes.h"

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

/* The digits of four bytes at once, the first byte's in the lowest ones. */
static uint64_t hex_digits(uint64_t v)
{
    uint64_t letters;

    v = (v | v << 16) & 0x0000ffff0000ffffULL;
    v = (v | v << 8) & 0x00ff00ff00ff00ffULL;
    v = (v >> 4 | v << 8) & TB_EACH_BYTE(0x0fULL); /* one of them in each byte, the higher first */
    letters = (v + TB_EACH_BYTE(6ULL)) >> 4 & TB_EACH_BYTE(1ULL); /* 1 where it is 10 or more */
    return v + TB_EACH_BYTE(0x30ULL) + letters * ('a' - '0' - 10);
}

static void hex_put(uint64_t v, char *out)
{
    v = htole64(v);
    memcpy(out, &v, sizeof(v));
}

void tb_hex_encode(const uint8_t *in, size_t n, char *out)
{
    size_t i = 0;

    for (; i + 4 <= n; i += 4, out += 8)
        hex_put(hex_digits((uint64_t)in[i] | (uint64_t)in[i + 1] << 8 | (uint64_t)in[i + 2] << 16 |
                           (uint64_t)in[i + 3] << 24),
                out);
    for (; i < n; i++, out += 2) {
        uint64_t two = hex_digits(in[i]);

        out[0] = (char)(two & 0xff);
        out[1] = (char)(two >> 8 & 0xff);
    }
    *out = '\0';
}
