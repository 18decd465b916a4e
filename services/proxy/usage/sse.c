/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/sse.h"

#include "common/bytes.h"
#include "common/macros.h"

static const char FIELD[] = "data:";
#define FIELD_LEN (sizeof(FIELD) - 1)

/* True when the byte is one of the mark at the beginning of the stream. */
static bool sse_mark_byte(struct tb_sse *s, char c)
{
    static const unsigned char mark[] = {0xef, 0xbb, 0xbf};

    if (s->marked || (unsigned char)c != mark[s->mark]) {
        s->marked = true;
        return false;
    }
    s->marked = ++s->mark == sizeof(mark);
    return true;
}

/* A line ends. What it means for the event. */
static enum tb_sse_token sse_line_end(struct tb_sse *s)
{
    bool data = s->field == FIELD_LEN, empty = !s->line;

    s->field = 0;
    s->line = s->other = false;
    if (empty)
        return TB_SSE_EVENT;
    if (!data)
        return TB_SSE_MORE;
    s->data = "\n";
    s->data_len = 1;
    return TB_SSE_DATA;
}

static size_t sse_line_len(const char *p, size_t n)
{
    size_t i = 0;

    while (i + 8 <= n &&
           !(tb_bytes_have(tb_bytes_load(p + i), '\n') | tb_bytes_have(tb_bytes_load(p + i), '\r')))
        i += 8;
    while (i < n && p[i] != '\n' && p[i] != '\r')
        i++;
    return i;
}

/* Bytes of a line that has not ended. Returns how many were used. */
static size_t sse_line_bytes(struct tb_sse *s, const char *p, size_t n, enum tb_sse_token *ret)
{
    size_t used = 0;

    s->line = true;
    for (; used < n && !s->other && s->field < FIELD_LEN; used++) {
        s->other = p[used] != FIELD[s->field];
        s->field = s->other ? 0 : s->field + 1;
    }
    if (!s->other && used < n) {
        s->data = p + used;
        s->data_len = n - used;
        *ret = TB_SSE_DATA;
    }
    return n;
}

size_t tb_sse_next(struct tb_sse *s, const char *p, size_t n, enum tb_sse_token *ret)
{
    size_t used = 0;

    *ret = TB_SSE_MORE;
    while (used < n && *ret == TB_SSE_MORE) {
        char c = p[used];
        bool after_cr = s->after_cr;

        s->after_cr = false;
        if ((after_cr && c == '\n') || sse_mark_byte(s, c)) {
            used++;
        } else if (c == '\n' || c == '\r') {
            used++;
            s->after_cr = c == '\r';
            *ret = sse_line_end(s);
        } else {
            used += sse_line_bytes(s, p + used, sse_line_len(p + used, n - used), ret);
        }
    }
    return used;
}

bool tb_sse_at_line(const struct tb_sse *s)
{
    return !s->line && (s->marked || s->mark == 0);
}
