/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/content_range.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

static bool header_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void header_trim(const char **s, size_t *len)
{
    while (*len > 0 && header_is_space(**s)) {
        (*s)++;
        (*len)--;
    }
    while (*len > 0 && header_is_space((*s)[*len - 1]))
        (*len)--;
}

/* Digits at *p, at least one, no sign; *p is left on the first other character. */
static int header_take_uint(const char **p, const char *end, uint64_t *ret)
{
    uint64_t v = 0;
    const char *s = *p;

    for (; s < end && *s >= '0' && *s <= '9'; s++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*s - '0'), &v))
            return -EINVAL;
    if (s == *p)
        return -EINVAL;
    *p = s;
    *ret = v;
    return 0;
}

static int header_take_char(const char **p, const char *end, char c)
{
    if (*p == end || **p != c)
        return -EINVAL;
    (*p)++;
    return 0;
}

int content_range_parse(const char *s, size_t len, struct content_range *ret)
{
    static const char unit[] = "bytes ";
    struct content_range cr;
    const char *end;

    header_trim(&s, &len);
    end = s + len;
    if (len < strlen(unit) || strncasecmp(s, unit, strlen(unit)) != 0)
        return -EINVAL;
    s += strlen(unit);
    if (header_take_uint(&s, end, &cr.first) < 0 || header_take_char(&s, end, '-') < 0 ||
        header_take_uint(&s, end, &cr.last) < 0 || header_take_char(&s, end, '/') < 0 ||
        header_take_uint(&s, end, &cr.total) < 0 || s != end)
        return -EINVAL;
    if (cr.first > cr.last || cr.last >= cr.total)
        return -EINVAL;
    *ret = cr;
    return 0;
}

int content_range_total(const char *s, size_t len, uint64_t *ret)
{
    static const char unit[] = "bytes */";
    const char *end;
    uint64_t total;

    header_trim(&s, &len);
    end = s + len;
    if (len < strlen(unit) || strncasecmp(s, unit, strlen(unit)) != 0)
        return -EINVAL;
    s += strlen(unit);
    if (header_take_uint(&s, end, &total) < 0 || s != end)
        return -EINVAL;
    *ret = total;
    return 0;
}

int etag_parse(const char *s, size_t len, char ret[static ETAG_MAX])
{
    header_trim(&s, &len);
    if (len < 2 || len >= ETAG_MAX || s[0] != '"' || s[len - 1] != '"')
        return -EINVAL;
    for (size_t i = 1; i < len - 1; i++)
        if (s[i] < 0x21 || s[i] > 0x7e || s[i] == '"')
            return -EINVAL;
    memcpy(ret, s, len);
    ret[len] = '\0';
    return 0;
}

int header_uint_parse(const char *s, size_t len, uint64_t *ret)
{
    const char *end;
    uint64_t v;

    header_trim(&s, &len);
    end = s + len;
    if (header_take_uint(&s, end, &v) < 0 || s != end)
        return -EINVAL;
    *ret = v;
    return 0;
}
