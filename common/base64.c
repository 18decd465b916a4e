/* SPDX-License-Identifier: Apache-2.0 */
#include "common/base64.h"

#include <errno.h>
#include <openssl/evp.h>
#include <string.h>

void tb_base64_encode(const void *in, size_t n, char *out)
{
    out[0] = '\0';
    EVP_EncodeBlock((unsigned char *)out, in, (int)n);
}

static int base64_value(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *p = c ? strchr(digits, c) : NULL;

    return p ? (int)(p - digits) : -1;
}

ssize_t tb_base64_decode(const char *in, size_t len, uint8_t *out)
{
    size_t pad = 0, n = 0;

    if (len % 4 != 0)
        return -EINVAL;
    while (pad < 2 && pad < len && in[len - 1 - pad] == '=')
        pad++;
    for (size_t i = 0; i < len; i += 4) {
        size_t digits = i + 4 == len ? 4 - pad : 4;
        uint32_t v = 0;

        for (size_t j = 0; j < 4; j++) {
            int d = j < digits ? base64_value(in[i + j]) : 0;

            if (d < 0)
                return -EINVAL;
            v = v << 6 | (uint32_t)d;
        }
        /* Bits that stand for nothing are zero: one text for one value. */
        if (v & ((1U << (8 * (4 - digits))) - 1))
            return -EINVAL;
        for (size_t j = 0; j + 1 < digits; j++)
            out[n++] = (uint8_t)(v >> (16 - 8 * j));
    }
    return (ssize_t)n;
}
