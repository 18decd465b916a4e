/* SPDX-License-Identifier: Apache-2.0 */
#include "support/unescape.h"

#include <ctype.h>

#define LAYERS 4 /* a URL in JSON in the query of a URL, and one more */

/* The number of n hexadecimal digits at p, or -1. */
static int unescape_hex(const char *p, const char *end, int n)
{
    int v = 0;

    if (end - p < n)
        return -1;
    for (int i = 0; i < n; i++) {
        int c = tolower((unsigned char)p[i]);

        if (!isxdigit(c))
            return -1;
        v = v * 16 + (isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    return v;
}

/* The character that is escaped at p, by as many backslashes as there are, and of how many bytes that is. -1:
 * none. */
static int unescape_one(const char *p, const char *end, size_t *ret_len)
{
    size_t n = 0;
    int c = -1;

    if (*p == '%') {
        c = unescape_hex(p + 1, end, 2);
        *ret_len = 3;
        return c > ' ' && c < 0x7f ? c : -1;
    }
    while (p + n < end && p[n] == '\\')
        n++;
    if (n > 0 && p + n < end) {
        int digits = p[n] == 'u' ? 4 : p[n] == 'x' ? 2 : 0;

        c = digits > 0 ? unescape_hex(p + n + 1, end, digits) : p[n] == '/' ? '/' : -1;
        *ret_len = n + 1 + (size_t)digits;
    }
    return c > ' ' && c < 0x7f ? c : -1;
}

static bool unescape_once(const char *p, size_t len, struct tb_buf *out)
{
    const char *end = p + len;
    bool any = false;

    for (size_t n; p < end; p += n) {
        int c = unescape_one(p, end, &n);
        char byte = c < 0 ? *p : (char)c;

        any |= c >= 0;
        n = c < 0 ? 1 : n;
        tb_buf_append(out, &byte, 1);
    }
    return any;
}

bool unescape_line(const char *p, size_t len, struct tb_buf *out)
{
    _cleanup_buf_ struct tb_buf from = {.secret = true}, to = {.secret = true};
    bool any = false;

    for (int i = 0; i < LAYERS && unescape_once(p, len, &to); i++) {
        struct tb_buf t = from;

        any = true;
        from = to;
        to = t;
        tb_buf_clear(&to);
        p = from.data;
        len = from.len;
    }
    if (any)
        tb_buf_append(out, p, len);
    return any;
}

int unescape_base64_of(const char *text, size_t len, unsigned shift, struct tb_buf *out)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    tb_buf_clear(out);
    /* From the first six bits that are of the text alone to the last ones. */
    for (size_t bit = (6 - shift * 8 % 6) % 6; bit + 6 <= len * 8; bit += 6) {
        unsigned first = (unsigned char)text[bit / 8],
                 next = bit / 8 + 1 < len ? (unsigned char)text[bit / 8 + 1] : 0;

        tb_buf_append(out, &alphabet[(first << 8 | next) >> (10 - bit % 8) & 63], 1);
    }
    return tb_buf_error(out);
}
