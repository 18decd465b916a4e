/* SPDX-License-Identifier: Apache-2.0 */
/* What may stand as an id, a file name and a path in a manifest: tbenc(5), section MANIFEST. Names end up as
 * names of files, so they are checked here once, for every reader. */
#include <string.h>

#include "common/text.h"
#include "tbenc/internal.h"

/* Printable as far as bytes can tell: UTF-8 without the control characters of C0, DEL and C1. */
static bool text_valid(const char *s)
{
    for (size_t n; *s; s += n) {
        uint32_t c = 0;

        n = tb_utf8_char(s, &c);
        if (n == 0 || c < 0x20 || (c >= 0x7f && c < 0xa0))
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
