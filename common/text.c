/* SPDX-License-Identifier: Apache-2.0 */
#include "common/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/buf.h"
#include "common/macros.h"

#define REPLACEMENT 0xfffd /* what JSON gets for a byte that is not UTF-8 */

bool tb_text_ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

size_t tb_utf8_char(const char *s, uint32_t *ret)
{
    const uint8_t *p = (const uint8_t *)s;
    uint32_t c;
    size_t n;

    if (p[0] < 0x80)
        n = 1, c = p[0];
    else if (p[0] >= 0xc2 && p[0] <= 0xdf)
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
    if (ret)
        *ret = c;
    return n;
}

static bool text_is_control(uint32_t c)
{
    static const struct {
        uint32_t first, last;
    } ranges[] = {
        {0, 0x1f},        /* C0 */
        {0x7f, 0x9f},     /* DEL, C1 */
        {0x61c, 0x61c},   /* direction: Arabic letter mark */
        {0x200e, 0x200f}, /* left-to-right and right-to-left mark */
        {0x2028, 0x202e}, /* line and paragraph separator, embeddings and overrides */
        {0x2066, 0x2069}, /* isolates */
    };

    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
        if (c >= ranges[i].first && c <= ranges[i].last)
            return true;
    return false;
}

char *tb_text_plain(char *s)
{
    char *out = s;

    for (const char *p = s; *p;) {
        uint32_t c = 0;
        size_t n = tb_utf8_char(p, &c);

        if (n == 0 || text_is_control(c)) {
            *out++ = '?';
            p += n ? n : 1;
            continue;
        }
        memmove(out, p, n);
        out += n;
        p += n;
    }
    *out = '\0';
    return s;
}

char *tb_text_trim(char *s)
{
    size_t n = strlen(s), lead = n;

    while (lead > 0 && ((unsigned char)s[--lead] & 0xc0) == 0x80)
        ;
    if (n > 0 && tb_utf8_char(s + lead, NULL) == 0)
        s[lead] = '\0';
    return s;
}

char *tb_text_plain_json(const char *json)
{
    char *copy = malloc(6 * strlen(json) + 1), *out = copy;

    if (!copy)
        return NULL;
    for (const char *p = json; *p;) {
        uint32_t c = REPLACEMENT;
        size_t n = tb_utf8_char(p, &c);

        if (n == 1 && strchr("\t\n\r", *p)) {
            *out++ = *p++;
        } else if (n == 0 || text_is_control(c)) {
            out += sprintf(out, "\\u%04x", (unsigned)c);
            p += n ? n : 1;
        } else {
            out = mempcpy(out, p, n);
            p += n;
        }
    }
    *out = '\0';
    return copy;
}

char *tb_text_shell_word(const char *s)
{
    _cleanup_buf_ struct tb_buf b = {0};
    char *out;

    if (*s &&
        strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-") == strlen(s))
        return strdup(s);
    tb_buf_puts(&b, "'");
    for (; *s; s++)
        tb_buf_puts(&b, *s == '\'' ? "'\\''" : (char[]){*s, '\0'});
    tb_buf_puts(&b, "'");
    tb_buf_append(&b, "", 1);
    if (tb_buf_error(&b) < 0)
        return NULL;
    out = b.data;
    b = (struct tb_buf){0};
    return out;
}
