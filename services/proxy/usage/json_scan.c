/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/json_scan.h"

#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/units.h"

enum { MODE_PLAIN, MODE_STRING, MODE_SCALAR };

static struct tb_json_level *level(struct tb_json_scan *s)
{
    return s->depth > 0 && s->depth <= TB_JSON_SCAN_LEVELS ? &s->level[s->depth - 1] : NULL;
}

static size_t fail(struct tb_json_scan *s, size_t n, enum tb_json_token *ret)
{
    s->bad = true;
    *ret = TB_JSON_BAD;
    return n;
}

/* --- strings ----------------------------------------------------------------------------------------------------- */

static void key_byte(struct tb_json_scan *s, unsigned c)
{
    struct tb_json_level *l = level(s);

    /* What is not plain ASCII is in none of the keys anybody asks for. */
    if (s->fill == TB_JSON_SCAN_KEY || c < 0x20 || c >= 0x7f) {
        s->clean = false;
        return;
    }
    l->key[s->fill++] = (char)c;
}

/* A byte behind a backslash, or of the four digits behind \u. False when it is none. */
static bool escape_byte(struct tb_json_scan *s, char c)
{
    int v = tb_hex_digit(c);

    if (s->hex_left > 0) {
        if (v < 0)
            return false;
        s->hex = s->hex * 16 + (unsigned)v;
        if (--s->hex_left == 0) {
            s->escape = false;
            if (s->key)
                key_byte(s, s->hex);
        }
        return true;
    }
    if (c == 'u') {
        s->hex_left = 4;
        s->hex = 0;
        return true;
    }
    s->escape = false;
    if (s->key)
        key_byte(s, c == '"' || c == '\\' || c == '/' ? (unsigned char)c : 0);
    return true;
}

/* How many bytes of p are neither quote nor backslash. */
static size_t plain_run(const char *p, size_t n)
{
    const char *quote = memchr(p, '"', n), *slash;

    if (quote)
        n = (size_t)(quote - p);
    slash = memchr(p, '\\', n);
    return slash ? (size_t)(slash - p) : n;
}

static void string_begin(struct tb_json_scan *s)
{
    struct tb_json_level *l = level(s);

    s->mode = MODE_STRING;
    s->key = l && !l->array && !l->keyed;
    s->clean = true;
    s->fill = 0;
    s->text_len = 0;
    if (l && !s->key)
        l->items++;
}

static void string_end(struct tb_json_scan *s)
{
    struct tb_json_level *l = level(s);

    s->mode = MODE_PLAIN;
    if (s->key)
        l->key[s->clean ? s->fill : 0] = '\0';
}

/* Inside a string. True when it ended. */
static bool in_string(struct tb_json_scan *s, const char *p, size_t n, size_t *used)
{
    while (*used < n && !s->bad) {
        size_t run;

        if (s->escape) {
            s->text_len++;
            s->bad = !escape_byte(s, p[(*used)++]);
            continue;
        }
        run = plain_run(p + *used, n - *used);
        for (size_t i = 0; s->key && i < run && s->clean; i++)
            key_byte(s, (unsigned char)p[*used + i]);
        s->text_len += run;
        *used += run;
        if (*used == n)
            break;
        s->escape = p[(*used)++] == '\\';
        if (!s->escape) {
            string_end(s);
            return true;
        }
        s->text_len++;
    }
    return false;
}

/* --- structure --------------------------------------------------------------------------------------------------- */

static void open_container(struct tb_json_scan *s, char c)
{
    struct tb_json_level *l = level(s);

    if (l)
        l->items++;
    s->depth++;
    l = level(s);
    if (l) {
        l->array = c == '[';
        l->keyed = false;
        l->key[0] = '\0';
        l->items = 0;
    }
}

/* False when the bracket does not fit what it closes. */
static bool close_container(struct tb_json_scan *s, char c)
{
    const struct tb_json_level *l = level(s);

    if (s->depth == 0 || (l && l->array != (c == ']')))
        return false;
    s->closed = --s->depth == 0;
    return true;
}

static bool scalar_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* A byte between values. False when it has no place there. *ret is TB_JSON_MORE to go on. */
static bool plain_byte(struct tb_json_scan *s, char c, enum tb_json_token *ret)
{
    struct tb_json_level *l = level(s);
    bool bracket = c == '{' || c == '[' || c == '}' || c == ']';

    if (is_space(c))
        return true;
    if (s->closed)
        return false;
    if (bracket && !s->told) { /* told first, taken at the next call */
        s->told = true;
        *ret = c == '{' || c == '[' ? TB_JSON_BEGIN : TB_JSON_END;
        return !(c == '}' || c == ']') || s->depth > 0;
    }
    s->told = false;
    if (bracket && (c == '{' || c == '['))
        open_container(s, c);
    else if (bracket)
        return close_container(s, c);
    else if (c == '"')
        string_begin(s);
    else if (c == ':' && l && !l->array)
        l->keyed = true;
    else if (c == ',' && l)
        l->keyed = false;
    else if (c != ':' && c != ',')
        return false;
    return true;
}

static bool in_scalar(struct tb_json_scan *s, const char *p, size_t n, size_t *used)
{
    while (*used < n && scalar_char(p[*used])) {
        if (s->fill < TB_JSON_SCAN_VALUE)
            s->value[s->fill] = p[*used];
        s->fill++;
        ++*used;
    }
    if (*used == n)
        return false;
    /* One that was cut must not pass for another. */
    s->value[s->fill <= TB_JSON_SCAN_VALUE ? s->fill : 0] = '\0';
    s->mode = MODE_PLAIN;
    return true;
}

static void scalar_begin(struct tb_json_scan *s)
{
    struct tb_json_level *l = level(s);

    s->mode = MODE_SCALAR;
    s->fill = 0;
    if (l)
        l->items++;
}

size_t tb_json_scan(struct tb_json_scan *s, const char *p, size_t n, enum tb_json_token *ret)
{
    size_t used = 0;

    *ret = TB_JSON_MORE;
    if (s->bad)
        return fail(s, n, ret);
    while (used < n) {
        bool key = s->key;

        if (s->mode == MODE_STRING) {
            if (in_string(s, p, n, &used) && !key) {
                *ret = TB_JSON_TEXT;
                return used;
            }
            if (s->bad)
                return fail(s, n, ret);
        } else if (s->mode == MODE_SCALAR) {
            if (in_scalar(s, p, n, &used)) {
                *ret = TB_JSON_DONE;
                return used;
            }
        } else if (scalar_char(p[used])) {
            if (s->depth == 0 || (level(s) && !level(s)->array && !level(s)->keyed))
                return fail(s, n, ret);
            scalar_begin(s);
            *ret = TB_JSON_VALUE;
            return used;
        } else {
            if (!plain_byte(s, p[used], ret))
                return fail(s, n, ret);
            if (*ret != TB_JSON_MORE)
                return used;
            used++;
        }
    }
    return used;
}

bool tb_json_at(const struct tb_json_scan *s, const char *path)
{
    for (unsigned i = 0; i < s->depth; i++) {
        size_t len = strcspn(path, ".");
        const char *key;

        if (i >= TB_JSON_SCAN_LEVELS)
            return false;
        key = s->level[i].array ? "" : s->level[i].key;
        if (strlen(key) != len || strncasecmp(key, path, len) != 0)
            return false;
        path += len;
        if (i + 1 == s->depth)
            return *path == '\0';
        if (*path++ != '.')
            return false;
    }
    return false;
}

const char *tb_json_last_key(const struct tb_json_scan *s)
{
    const struct tb_json_level *l =
        s->depth > 0 && s->depth <= TB_JSON_SCAN_LEVELS ? &s->level[s->depth - 1] : NULL;

    return l && !l->array ? l->key : "";
}

bool tb_json_scan_uint(const struct tb_json_scan *s, uint64_t *ret)
{
    return tb_uint_parse(s->value, 0, INT64_MAX, ret) >= 0;
}
