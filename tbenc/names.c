/* SPDX-License-Identifier: Apache-2.0 */
/* What may stand as an id, a file name and a path in a manifest: tbenc(5), section MANIFEST. Names end up as
 * names of files, so they are checked here once, for every reader. */
#include <string.h>

#include "tbenc/internal.h"

bool tbenc_id_valid(const char *s)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-";
    size_t n = s ? strnlen(s, TBENC_ID_MAX + 1) : 0;

    return n >= 1 && n <= TBENC_ID_MAX && strspn(s, ok) == n;
}

/* Bytes of the UTF-8 character at p (RFC 3629: shortest form, no surrogates, at most U+10FFFF), 0 when it is
 * none. */
static size_t utf8_char(const uint8_t *p)
{
    uint32_t c;
    size_t n;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        n = 2, c = p[0] & 0x1f;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        n = 3, c = p[0] & 0x0f;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        n = 4, c = p[0] & 0x07;
    else
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((p[i] & 0xc0) != 0x80) /* also stops at the NUL */
            return 0;
        c = c << 6 | (p[i] & 0x3f);
    }
    if ((n == 3 && c < 0x800) || (n == 4 && c < 0x10000) || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    return n;
}

/* Printable as far as bytes can tell: UTF-8 without the control characters of C0, DEL and C1. */
static bool text_valid(const char *s)
{
    const uint8_t *p = (const uint8_t *)s;
    size_t n;

    for (; *p; p += n) {
        n = utf8_char(p);
        if (n == 0 || *p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0))
            return false;
    }
    return true;
}

static bool component_valid(const char *s, size_t n)
{
    if (n == 0 || n > TBENC_NAME_MAX)
        return false;
    return !(n == 1 && s[0] == '.') && !(n == 2 && s[0] == '.' && s[1] == '.');
}

bool tbenc_filename_valid(const char *s)
{
    size_t n = s ? strnlen(s, TBENC_NAME_MAX + 1) : 0;

    return component_valid(s, n) && !memchr(s, '/', n) && text_valid(s);
}

bool tbenc_path_valid(const char *p)
{
    size_t n = p ? strnlen(p, TBENC_PATH_MAX + 1) : 0;

    if (n == 0 || n > TBENC_PATH_MAX || !text_valid(p))
        return false;
    for (;;) {
        n = strcspn(p, "/");
        if (!component_valid(p, n))
            return false;
        if (!p[n])
            return true;
        p += n + 1;
    }
}
