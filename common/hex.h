/* SPDX-License-Identifier: Apache-2.0 */
/* Hexadecimal text. Encoding and decoding whole values takes a time that does not depend on them, as they may
 * be keys. */
#ifndef TB_HEX_H
#define TB_HEX_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

/* 0..15, or -1 when c is no hex digit. For public text: branches on c. */
static inline int tb_hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decodes exactly n bytes from 2*n hex digits of either case, in time independent of their values. -EINVAL
 * when hex_len != 2*n or a character is no hex digit (out is then wiped). */
int tb_hex_decode(const char *hex, size_t hex_len, uint8_t *out, size_t n);

/* Writes 2*n lower-case digits and a NUL to out[2*n+1]. */
void tb_hex_encode(const uint8_t *in, size_t n, char *out);

#endif
