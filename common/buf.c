/* SPDX-License-Identifier: Apache-2.0 */
#include "common/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <string.h>

#include "common/bytes.h"
#include "common/secret.h"

#define BUF_CAP_MIN 512

static int buf_fail(struct tb_buf *b, int r)
{
    b->error = r;
    return r;
}

int tb_buf_grow(struct tb_buf *b, size_t n)
{
    size_t cap = b->cap ? b->cap : BUF_CAP_MIN;
    char *p;

    assert(b->len <= b->cap);
    if (b->error)
        return b->error;
    if (n > SIZE_MAX / 2 - b->len || (b->max > 0 && b->len + n > b->max))
        return buf_fail(b, -EFBIG);
    if (b->cap - b->len >= n)
        return 0;
    while (cap - b->len < n)
        cap *= 2;
    /* realloc() may leave a copy behind. */
    p = b->secret ? malloc(cap) : realloc(b->data, cap);
    if (!p)
        return buf_fail(b, -ENOMEM);
    if (b->secret && b->data) {
        memcpy(p, b->data, b->len);
        tb_erase(b->data, b->len);
        free(b->data);
    }
    b->data = p;
    b->cap = cap;
    return 0;
}

int tb_buf_printf(struct tb_buf *b, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof(text))
        return buf_fail(b, b->error ? b->error : -EOVERFLOW);
    return tb_buf_append(b, text, (size_t)n);
}

int tb_buf_uint(struct tb_buf *b, uint64_t v)
{
    char text[20], *p = text + sizeof(text);

    do
        *--p = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    return tb_buf_append(b, p, (size_t)(text + sizeof(text) - p));
}

int tb_buf_hex(struct tb_buf *b, uint64_t v)
{
    char text[16], *p = text + sizeof(text);

    do
        *--p = "0123456789abcdef"[v % 16];
    while ((v /= 16) > 0);
    return tb_buf_append(b, p, (size_t)(text + sizeof(text) - p));
}

/* Whether one of eight bytes needs an escape. */
static bool json_needs_escape(uint64_t v)
{
    return ((v & TB_EACH_BYTE(0x80ULL)) | tb_bytes_control(v) | tb_bytes_have(v, 0x7f) |
            tb_bytes_have(v, '"') | tb_bytes_have(v, '\\')) != 0;
}

static char *json_put(char *out, unsigned char c)
{
    static const char hex[] = "0123456789abcdef";

    if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
        *out++ = (char)c;
    } else if (c == '"' || c == '\\') {
        *out++ = '\\';
        *out++ = (char)c;
    } else {
        memcpy(out, "\\u00", 4);
        out[4] = hex[c >> 4];
        out[5] = hex[c & 15];
        out += 6;
    }
    return out;
}

int tb_buf_json_string(struct tb_buf *b, const char *s, size_t n)
{
    int r = tb_buf_reserve(b, n * 6 + 2);
    size_t i = 0;
    char *out;

    if (r < 0)
        return r;
    out = b->data + b->len;
    *out++ = '"';
    for (; i + 8 <= n; i += 8, out += 8) {
        uint64_t v = tb_bytes_load(s + i);

        if (json_needs_escape(v))
            break;
        memcpy(out, &v, 8);
    }
    for (; i < n; i++)
        out = json_put(out, (unsigned char)s[i]);
    *out++ = '"';
    b->len = (size_t)(out - b->data);
    return 0;
}

void tb_buf_consume(struct tb_buf *b, size_t n)
{
    assert(n <= b->len);
    b->len -= n;
    if (b->len > 0)
        memmove(b->data, b->data + n, b->len);
}

void tb_buf_clear(struct tb_buf *b)
{
    b->len = 0;
    b->error = 0;
}

void tb_buf_free(struct tb_buf *b)
{
    if (b->secret && b->data)
        tb_erase(b->data, b->len);
    free(b->data);
    *b = (struct tb_buf){0};
}
