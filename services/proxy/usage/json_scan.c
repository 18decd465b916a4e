/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/json_scan.h"

#include <assert.h>
#include <string.h>

#include "common/bytes.h"
#include "common/hex.h"
#include "common/macros.h"
#include "common/units.h"

enum { MODE_PLAIN, MODE_STRING, MODE_SCALAR };
enum { EXPECT_VALUE, EXPECT_ITEM, EXPECT_FIRST_KEY, EXPECT_KEY, EXPECT_COLON, EXPECT_NEXT };

static const char UNKNOWN_KEY[] =
    "\x7f"; /* empty, too long or not ASCII: none of the keys anybody asks for */

static struct tb_json_level *scan_level(struct tb_json_scan *s)
{
    return s->depth > 0 && s->depth <= TB_JSON_SCAN_LEVELS ? &s->level[s->depth - 1] : NULL;
}

static bool scan_in_object(const struct tb_json_scan *s)
{
    return s->depth > 0 && s->object[(s->depth - 1) / 8] & 1U << (s->depth - 1) % 8;
}

static size_t scan_fail(struct tb_json_scan *s, size_t n, enum tb_json_token *ret)
{
    s->bad = true;
    *ret = TB_JSON_BAD;
    return n;
}

static void scan_value_begins(struct tb_json_scan *s)
{
    struct tb_json_level *l = scan_level(s);

    if (l)
        l->items++;
    s->fill = 0;
    s->cut = false;
    s->text_len = 0;
}

/* --- strings ------------------------------------------------------------------------------------------ */

/* A decoded byte of a key, or of what is kept of a string. */
static void scan_keep(struct tb_json_scan *s, unsigned c)
{
    struct tb_json_level *l = scan_level(s);
    char ascii = c >= 0x20 && c < 0x7f ? (char)c : 0x7f;

    if (s->key && l) {
        if (s->fill == TB_JSON_SCAN_KEY || ascii == 0x7f)
            s->cut = true;
        else
            l->key[s->fill++] = ascii;
    } else if (s->fill < TB_JSON_SCAN_VALUE) {
        s->value[s->fill++] = ascii;
    } else {
        s->cut = true;
    }
}

/* The same for bytes that stand for themselves: none of them is a control character. */
static void scan_keep_run(struct tb_json_scan *s, const char *p, size_t n)
{
    struct tb_json_level *l = scan_level(s);
    bool key = s->key && l;
    char *to = key ? l->key : s->value;
    size_t room = (key ? TB_JSON_SCAN_KEY : TB_JSON_SCAN_VALUE) - s->fill, take = MIN(n, room), i = 0;
    bool other = false;

    if (s->cut)
        return;
    for (; i + 8 <= take; i += 8) {
        uint64_t v = tb_bytes_load(p + i);

        if ((v & TB_EACH_BYTE(0x80ULL)) | tb_bytes_have(v, 0x7f))
            break;
        memcpy(to + s->fill + i, &v, 8);
    }
    for (; i < take; i++) {
        bool ascii = p[i] >= 0x20 && p[i] < 0x7f;

        to[s->fill + i] = ascii ? p[i] : 0x7f;
        other |= !ascii;
    }
    s->fill += take;
    s->cut = n > room || (key && other);
}

/* A byte behind a backslash, or of the four digits behind \u. False when it is none. */
static bool scan_escape_byte(struct tb_json_scan *s, char c)
{
    static const char letters[] = "\"\\/bfnrtu", meaning[] = "\"\\/\b\f\n\r\t";
    const char *known;
    int digit;

    if (s->hex_left > 0) {
        digit = tb_hex_digit(c);
        if (digit < 0)
            return false;
        s->hex = s->hex * 16 + (unsigned)digit;
        if (--s->hex_left > 0)
            return true;
        s->escape = false;
        s->text_len += s->hex < 0x80 ? 1 : s->hex < 0x800 ? 2 : s->hex >= 0xd800 && s->hex < 0xe000 ? 2 : 3;
        scan_keep(s, s->hex);
        return true;
    }
    known = c ? strchr(letters, c) : NULL;
    if (!known)
        return false;
    if (c == 'u') {
        s->hex_left = 4;
        s->hex = 0;
        return true;
    }
    s->escape = false;
    s->text_len++;
    scan_keep(s, (unsigned char)meaning[known - letters]);
    return true;
}

/* How many bytes of p are neither quote, backslash nor control character. */
static size_t scan_plain_run(const char *p, size_t n)
{
    size_t i = 0;

    for (; i + 8 <= n; i += 8) {
        uint64_t v = tb_bytes_load(p + i);

        if (tb_bytes_have(v, '"') | tb_bytes_have(v, '\\') | tb_bytes_control(v))
            break;
    }
    while (i < n && p[i] != '"' && p[i] != '\\' && (unsigned char)p[i] >= 0x20)
        i++;
    return i;
}

static void scan_string_begins(struct tb_json_scan *s)
{
    struct tb_json_level *l = scan_level(s);

    s->mode = MODE_STRING;
    s->key = s->expect == EXPECT_KEY || s->expect == EXPECT_FIRST_KEY;
    if (s->key) {
        s->fill = 0;
        s->cut = !l;
    } else {
        scan_value_begins(s);
    }
}

static void scan_string_ends(struct tb_json_scan *s)
{
    struct tb_json_level *l = scan_level(s);

    s->mode = MODE_PLAIN;
    s->expect = s->key ? EXPECT_COLON : EXPECT_NEXT;
    if (!s->key) {
        s->value[s->fill] = '\0';
    } else if (l) {
        l->key[s->fill] = '\0';
        if (s->cut || s->fill == 0)
            memcpy(l->key, UNKNOWN_KEY, sizeof(UNKNOWN_KEY));
    }
}

/* Inside a string. True when it ended. */
static bool scan_string(struct tb_json_scan *s, const char *p, size_t n, size_t *used)
{
    while (*used < n && !s->bad) {
        size_t run;

        if (s->escape) {
            s->bad = !scan_escape_byte(s, p[(*used)++]);
            continue;
        }
        run = scan_plain_run(p + *used, n - *used);
        scan_keep_run(s, p + *used, run);
        s->text_len += run;
        *used += run;
        if (*used == n)
            break;
        s->escape = p[*used] == '\\';
        if (!s->escape && p[*used] != '"') {
            s->bad = true;
            break;
        }
        ++*used;
        if (!s->escape) {
            scan_string_ends(s);
            return true;
        }
    }
    return false;
}

/* --- structure ---------------------------------------------------------------------------------------- */

static bool scan_open(struct tb_json_scan *s, char c)
{
    struct tb_json_level *l = scan_level(s);

    if (s->depth == TB_JSON_SCAN_DEPTH)
        return false;
    if (l)
        l->items++;
    if (c == '{')
        s->object[s->depth / 8] |= (uint8_t)(1U << s->depth % 8);
    else
        s->object[s->depth / 8] &= (uint8_t) ~(1U << s->depth % 8);
    s->depth++;
    l = scan_level(s);
    if (l) {
        l->array = c == '[';
        l->key[0] = '\0';
        l->items = 0;
    }
    s->expect = c == '[' ? EXPECT_ITEM : EXPECT_FIRST_KEY;
    return true;
}

static void scan_close(struct tb_json_scan *s)
{
    assert(s->depth > 0);
    s->closed = --s->depth == 0;
    s->expect = EXPECT_NEXT;
}

static bool scan_may_close(const struct tb_json_scan *s, char c)
{
    if (s->depth == 0 || scan_in_object(s) != (c == '}'))
        return false;
    return s->expect == EXPECT_NEXT || s->expect == (c == '}' ? EXPECT_FIRST_KEY : EXPECT_ITEM);
}

static bool scan_value_expected(const struct tb_json_scan *s)
{
    return s->expect == EXPECT_VALUE || s->expect == EXPECT_ITEM;
}

static bool scan_is_scalar_char(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
}

static bool scan_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* What is told before the byte is taken; TB_JSON_MORE: nothing. */
static enum tb_json_token scan_announce(const struct tb_json_scan *s, char c)
{
    bool outermost = s->depth == 1 && scan_in_object(s);

    if (c == '{' || c == '[')
        return TB_JSON_BEGIN;
    if (c == '}' || c == ']')
        return TB_JSON_END;
    return outermost && (c == ',' || (c == '"' && s->expect == EXPECT_FIRST_KEY)) ? TB_JSON_MEMBER
                                                                                  : TB_JSON_MORE;
}

static bool scan_may_come(const struct tb_json_scan *s, char c)
{
    switch (c) {
    case '{':
    case '[':
        return !s->closed && scan_value_expected(s);
    case '}':
    case ']':
        return scan_may_close(s, c);
    case '"':
        return s->depth > 0 &&
               (scan_value_expected(s) || s->expect == EXPECT_KEY || s->expect == EXPECT_FIRST_KEY);
    case ':':
        return s->expect == EXPECT_COLON;
    case ',':
        return s->depth > 0 && s->expect == EXPECT_NEXT;
    default:
        return s->depth > 0 && scan_value_expected(s) && scan_is_scalar_char(c) && c != '+' && c != '.';
    }
}

/* A byte between values. False when it has no place there. *ret is TB_JSON_MORE when it was taken. */
static bool scan_plain_byte(struct tb_json_scan *s, char c, enum tb_json_token *ret)
{
    if (!scan_may_come(s, c))
        return false;
    if (!s->told) {
        *ret = scan_announce(s, c);
        s->told = *ret != TB_JSON_MORE;
        if (s->told)
            return true;
    }
    s->told = false;
    if (c == '{' || c == '[')
        return scan_open(s, c);
    if (c == '}' || c == ']')
        scan_close(s);
    else if (c == '"')
        scan_string_begins(s);
    else if (c == ':')
        s->expect = EXPECT_VALUE;
    else
        s->expect = scan_in_object(s) ? EXPECT_KEY : EXPECT_VALUE;
    return true;
}

static bool scan_is_word_or_number(const char *text)
{
    static const char *const words[] = {"true", "false", "null", "NaN", "Infinity", "-Infinity"};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strcmp(text, words[i]) == 0)
            return true;
    return (text[0] >= '0' && text[0] <= '9') || (text[0] == '-' && text[1] >= '0' && text[1] <= '9');
}

/* Inside a number or word. True when it ended. */
static bool scan_scalar(struct tb_json_scan *s, const char *p, size_t n, size_t *used)
{
    for (; *used < n && scan_is_scalar_char(p[*used]); ++*used) {
        if (s->fill < TB_JSON_SCAN_VALUE)
            s->value[s->fill++] = p[*used];
        else
            s->cut = true;
    }
    if (*used == n)
        return false;
    s->value[s->fill] = '\0';
    s->mode = MODE_PLAIN;
    s->expect = EXPECT_NEXT;
    s->bad = !scan_is_word_or_number(s->value);
    return true;
}

/* Of the mark before the text: false when a byte is none of it though the mark has begun. */
static bool scan_mark_byte(struct tb_json_scan *s, char c, bool *ret_taken)
{
    static const unsigned char mark[] = {0xef, 0xbb, 0xbf};

    *ret_taken = s->mark < sizeof(mark) && (unsigned char)c == mark[s->mark];
    if (*ret_taken) {
        s->mark++;
        return true;
    }
    if (s->mark > 0 && s->mark < sizeof(mark))
        return false;
    s->mark = sizeof(mark);
    return true;
}

/* One step in the current mode. True when *ret says something, or nothing can go on. */
static bool scan_step(struct tb_json_scan *s, const char *p, size_t n, size_t *used, enum tb_json_token *ret)
{
    bool taken = false;

    if (s->mode == MODE_STRING) {
        if (!scan_string(s, p, n, used) || s->bad)
            return false;
        *ret = !s->key ? TB_JSON_TEXT : s->depth <= 2 ? TB_JSON_KEY : TB_JSON_MORE;
        return *ret != TB_JSON_MORE;
    }
    if (s->mode == MODE_SCALAR) {
        *ret = scan_scalar(s, p, n, used) ? TB_JSON_DONE : TB_JSON_MORE;
        return *ret != TB_JSON_MORE;
    }
    if (s->mark < 3)
        s->bad = !scan_mark_byte(s, p[*used], &taken);
    if (taken || scan_is_space(p[*used])) {
        ++*used;
    } else if (scan_is_scalar_char(p[*used]) && scan_may_come(s, p[*used])) {
        scan_value_begins(s);
        s->mode = MODE_SCALAR;
    } else if (!scan_plain_byte(s, p[*used], ret)) {
        s->bad = true;
    } else if (*ret == TB_JSON_MORE) {
        ++*used;
    }
    return *ret != TB_JSON_MORE;
}

size_t tb_json_scan(struct tb_json_scan *s, const char *p, size_t n, enum tb_json_token *ret)
{
    size_t used = 0;

    *ret = TB_JSON_MORE;
    while (used < n && !s->bad)
        if (scan_step(s, p, n, &used, ret))
            break;
    return s->bad ? scan_fail(s, n, ret) : used;
}

bool tb_json_at(const struct tb_json_scan *s, const char *path)
{
    for (unsigned i = 0; i < s->depth; i++) {
        size_t len = strcspn(path, ".");
        const char *key;

        if (i >= TB_JSON_SCAN_LEVELS)
            return false;
        key = s->level[i].array ? "" : s->level[i].key;
        if (strlen(key) != len || memcmp(key, path, len) != 0)
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
    return !s->cut && tb_uint_parse(s->value, 0, INT64_MAX, ret) >= 0;
}
