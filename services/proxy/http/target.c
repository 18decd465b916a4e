/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/target.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"

#define PERCENT_LEN 3

static bool target_refuse(struct tb_target_refusal *ret, int status, const char *why)
{
    *ret = (struct tb_target_refusal){status, why};
    return false;
}

#define ALNUM ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true
#define ALNUM_AND_MARKS                                                                                      \
    ALNUM, ['-'] = true, ['.'] = true, ['_'] = true, ['~'] = true, ['!'] = true, ['$'] = true, ['&'] = true, \
           ['\''] = true, ['('] = true, [')'] = true, ['*'] = true, ['+'] = true, [','] = true, ['='] = true

static const bool host_octet[256] = {ALNUM_AND_MARKS, [';'] = true, ['%'] = true};
static const bool literal_octet[256] = {ALNUM, [':'] = true, ['.'] = true, ['%'] = true};
/* Characters that mean the same in a path whether they are encoded or not. A semicolon does not: some
 * servers cut there. */
static const bool path_octet[256] = {ALNUM_AND_MARKS, [':'] = true, ['@'] = true};

/* --- authority ------------------------------------------------------------------------------------------ */

static bool target_port_valid(const char *s, size_t len)
{
    unsigned port = 0;

    for (size_t i = 0; i < len; i++) {
        if (s[i] < '0' || s[i] > '9' || port > 65535)
            return false;
        port = port * 10 + (unsigned)(s[i] - '0');
    }
    return port <= 65535;
}

/* [v6], with what may stand in one. */
static bool target_literal_valid(const char *s, size_t len)
{
    if (len < 4 || s[len - 1] != ']')
        return false;
    for (size_t i = 1; i < len - 1; i++)
        if (!literal_octet[(unsigned char)s[i]])
            return false;
    return true;
}

bool tb_authority_valid(const char *s, size_t len)
{
    const char *colon = NULL, *bracket = len > 0 && s[0] == '[' ? memchr(s, ']', len) : NULL;
    size_t host_len;

    if (bracket)
        colon = bracket + 1 < s + len ? bracket + 1 : NULL;
    else
        colon = memchr(s, ':', len);
    host_len = colon ? (size_t)(colon - s) : len;
    if (colon && (*colon != ':' || !target_port_valid(colon + 1, len - host_len - 1)))
        return false;
    if (bracket)
        return target_literal_valid(s, host_len);
    for (size_t i = 0; i < host_len; i++)
        if (!host_octet[(unsigned char)s[i]])
            return false;
    return host_len > 0 || !colon;
}

/* --- path ----------------------------------------------------------------------------------------------- */

/* UTF-8 of the octets a path decodes to, one at a time (Unicode 15, table 3-7). */
struct utf8 {
    unsigned left;
    unsigned char low, high; /* of the next octet */
};

static bool target_utf8_next(struct utf8 *u, unsigned char c)
{
    if (u->left > 0) {
        if (c < u->low || c > u->high)
            return false;
        u->left--;
        u->low = 0x80;
        u->high = 0xbf;
        return true;
    }
    if (c < 0x80)
        return true;
    if (c < 0xc2 || c > 0xf4)
        return false;
    u->left = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
    u->low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    u->high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    return true;
}

/* What is known of the segment that is being read. */
struct segment {
    size_t len, dots;
};

static bool target_segment_end(struct segment *s, bool last, struct tb_target_refusal *ret)
{
    if (s->len > 0 && s->dots == s->len && s->dots <= 2)
        return target_refuse(ret, 400, "the path has a dot segment");
    if (s->len == 0 && !last)
        return target_refuse(ret, 404, "the path has an empty segment");
    *s = (struct segment){0};
    return true;
}

/* The octet at p, decoded, and how many bytes it takes. */
static bool target_next_octet(const char *p, const char *end, unsigned char *ret, size_t *ret_used,
                              struct tb_target_refusal *why)
{
    int high, low;

    *ret = (unsigned char)*p;
    *ret_used = 1;
    if (*p != '%')
        return true;
    if (end - p < PERCENT_LEN)
        return target_refuse(why, 400, "the path has a bad percent sign");
    high = tb_hex_digit(p[1]);
    low = tb_hex_digit(p[2]);
    if (high < 0 || low < 0)
        return target_refuse(why, 400, "the path has a bad percent sign");
    *ret = (unsigned char)(high * 16 + low);
    *ret_used = PERCENT_LEN;
    return true;
}

/* A character that may not stand in a path as it is, but came so, is encoded: some clients leave that out. */
static char *target_put_octet(char *out, unsigned char c, bool encoded)
{
    static const char digit[] = "0123456789ABCDEF";

    if (path_octet[c] || (!encoded && (c == '/' || c == ';'))) {
        *out++ = (char)c;
        return out;
    }
    *out++ = '%';
    *out++ = digit[c >> 4];
    *out++ = digit[c & 15];
    return out;
}

/* Normalises the path p..end, which begins with a slash. NULL and *why when it is refused. */
static char *target_normalise_path(const char *p, const char *end, char *out, struct tb_target_refusal *why)
{
    struct segment segment = {0};
    struct utf8 utf8 = {0};

    *out++ = *p++;
    while (p < end) {
        unsigned char c;
        size_t used;
        bool encoded = *p == '%';

        if (!target_next_octet(p, end, &c, &used, why))
            return NULL;
        p += used;
        if (c == '\\' || (encoded && (c == '/' || c < 0x20 || c == 0x7f))) {
            target_refuse(why, 400, "the path has an encoded slash, a backslash or a control character");
            return NULL;
        }
        if (!target_utf8_next(&utf8, c)) {
            target_refuse(why, 400, "the path is not UTF-8");
            return NULL;
        }
        if (c == '/' && !target_segment_end(&segment, false, why))
            return NULL;
        if (c != '/') {
            segment.len++;
            segment.dots += c == '.';
        }
        out = target_put_octet(out, c, encoded);
    }
    if (utf8.left > 0) {
        target_refuse(why, 400, "the path is not UTF-8");
        return NULL;
    }
    return target_segment_end(&segment, true, why) ? out : NULL;
}

/* --- the target ----------------------------------------------------------------------------------------- */

/* Takes scheme and authority off an absolute-form: the rest begins with '/' or '?' or is empty. NULL:
 * neither http nor https. */
static const char *target_skip_authority(const char *raw, const char *end, struct tb_target *t)
{
    size_t n = (size_t)(end - raw), scheme = 0;

    if (n >= 7 && strncasecmp(raw, "http://", 7) == 0)
        scheme = 7;
    else if (n >= 8 && strncasecmp(raw, "https://", 8) == 0)
        scheme = 8;
    if (scheme == 0)
        return NULL;
    t->form = TB_TARGET_ABSOLUTE;
    t->authority = raw + scheme;
    while (t->authority + t->authority_len < end && t->authority[t->authority_len] != '/' &&
           t->authority[t->authority_len] != '?')
        t->authority_len++;
    return t->authority + t->authority_len;
}

static bool target_octets_valid(const char *raw, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)raw[i] <= 0x20 || (unsigned char)raw[i] >= 0x7f || raw[i] == '#')
            return false;
    return true;
}

static bool target_finish(struct tb_target *t, const char *path, const char *end, char *text,
                          struct tb_target_refusal *why)
{
    const char *query = memchr(path, '?', (size_t)(end - path));
    char *out = text;

    if (!query)
        query = end;
    if (path < query)
        out = target_normalise_path(path, query, out, why);
    else
        *out++ = '/'; /* http://host?query */
    if (!out)
        return false;
    t->path_len = (size_t)(out - text);
    memcpy(out, query, (size_t)(end - query));
    out[end - query] = '\0';
    t->text = text;
    return true;
}

bool tb_target_parse(const char *raw, size_t len, char *text, struct tb_target *ret,
                     struct tb_target_refusal *ret_why)
{
    const char *end = raw + len, *path = raw;

    *ret = (struct tb_target){.text = text};
    text[0] = '\0';
    if (!target_octets_valid(raw, len))
        return target_refuse(ret_why, 400, "the request target has a character that must be percent-encoded");
    if (len == 1 && raw[0] == '*') {
        memcpy(text, "*", 2);
        ret->form = TB_TARGET_ASTERISK;
        ret->path_len = 1;
        return true;
    }
    if (len > 0 && raw[0] != '/') {
        path = target_skip_authority(raw, end, ret);
        if (!path) {
            ret->form = TB_TARGET_AUTHORITY;
            return target_refuse(ret_why, 400, "the request target must be a path or an http URL");
        }
        if (ret->authority_len == 0 || !tb_authority_valid(ret->authority, ret->authority_len))
            return target_refuse(ret_why, 400, "the host in the request target is malformed");
    }
    if (len == 0)
        return target_refuse(ret_why, 400, "the request target is empty");
    return target_finish(ret, path, end, text, ret_why);
}
