/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/response.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "proxy/http/headers.h"
#include "common/macros.h"
#include "common/units.h"

#define CHUNK_LINE_MAX 4096 /* size line or trailer line */
#define CHUNK_SIZE_DIGITS 15

/* What the head said about framing, before the rules decide. */
struct framing_facts {
    bool chunked, other_coding, close, keep_alive, http11;
    unsigned n_lengths;
    uint64_t length;
    const char *connection[8];
    size_t n_connection;
};

static int parse_status_line(char *line, size_t len, struct tb_response *ret, struct framing_facts *f)
{
    if (strlen(line) != len || strncmp(line, "HTTP/1.", 7) != 0 || (line[7] != '0' && line[7] != '1') ||
        line[8] != ' ')
        return -EBADMSG;
    f->http11 = line[7] == '1';
    for (int i = 9; i < 12; i++)
        if (line[i] < '0' || line[i] > '9')
            return -EBADMSG;
    if (line[12] != ' ' && line[12] != '\0')
        return -EBADMSG;
    ret->status = (line[9] - '0') * 100 + (line[10] - '0') * 10 + (line[11] - '0');
    return ret->status < 100 ? -EBADMSG : 0;
}

static int note_framing(const struct tb_header *h, struct framing_facts *f)
{
    const char *value = h->value;
    uint64_t v;

    if (h->id == TB_HEADER_CONTENT_LENGTH) {
        if (tb_uint_parse(value, 0, INT64_MAX, &v) < 0 || (f->n_lengths > 0 && v != f->length))
            return -EBADMSG;
        f->length = v;
        f->n_lengths++;
    } else if (h->id == TB_HEADER_TRANSFER_ENCODING) {
        if (strcasecmp(value, "chunked") == 0 && !f->chunked)
            f->chunked = true;
        else
            f->other_coding = true;
    } else if (h->id == TB_HEADER_CONNECTION) {
        if (tb_header_has_token(value, "close"))
            f->close = true;
        if (tb_header_has_token(value, "keep-alive"))
            f->keep_alive = true;
        if (f->n_connection == ARRAY_SIZE(f->connection))
            return -E2BIG;
        f->connection[f->n_connection++] = value;
    }
    return 0;
}

/* line[0..len) without its line end, which has become a NUL. */
static int parse_header_line(char *line, size_t len, struct tb_response *ret, struct framing_facts *f)
{
    size_t name_len = tb_header_token_len(line, len);
    char *colon = line + name_len, *value, *end = line + len;

    if (name_len == 0 || name_len == len || *colon != ':')
        return -EBADMSG;
    *colon = '\0';
    for (value = colon + 1; *value == ' ' || *value == '\t';)
        value++;
    while (end > value && (end[-1] == ' ' || end[-1] == '\t'))
        *--end = '\0';
    if (!tb_header_value_valid(value, (size_t)(end - value)))
        return -EBADMSG;
    if (ret->n_headers == TB_RESPONSE_HEADERS_MAX)
        return -E2BIG;
    ret->header[ret->n_headers++] = (struct tb_header){
        .name = line,
        .value = value,
        .name_len = name_len,
        .value_len = (size_t)(end - value),
        .id = tb_header_id(line, name_len),
    };
    return note_framing(&ret->header[ret->n_headers - 1], f);
}

/* Takes hop-by-hop headers and those the Connection header names out of the list. */
static void drop_hop_by_hop(struct tb_response *ret, const struct framing_facts *f)
{
    size_t n = 0;

    for (size_t i = 0; i < ret->n_headers; i++) {
        const struct tb_header *h = &ret->header[i];
        enum tb_header_id id = h->id;
        bool drop = tb_header_is_hop_by_hop(id) || id == TB_HEADER_CONTENT_LENGTH;

        for (size_t k = 0; k < f->n_connection && !drop && id == TB_HEADER_OTHER; k++)
            drop = tb_header_has_token(f->connection[k], h->name);
        if (drop)
            continue;
        if (id == TB_HEADER_CONTENT_TYPE && strncasecmp(h->value, "text/event-stream", 17) == 0)
            ret->event_stream = true;
        ret->header[n++] = *h;
    }
    ret->n_headers = n;
}

static int decide_framing(struct tb_response *ret, const struct framing_facts *f, bool head_request)
{
    if (f->other_coding || (f->chunked && f->n_lengths > 0))
        return -EBADMSG; /* two readers could disagree about where this body ends */
    ret->has_length = f->n_lengths > 0;
    ret->length = f->length;
    if (head_request || ret->status < 200 || ret->status == 204 || ret->status == 304)
        ret->framing = TB_FRAMING_NONE;
    else if (f->chunked)
        ret->framing = TB_FRAMING_CHUNKED;
    else
        ret->framing = ret->has_length ? TB_FRAMING_LENGTH : TB_FRAMING_CLOSE;
    /* HTTP/1.0 has no coding: who sends one may mean something else by it (RFC 9112, 6.1). */
    ret->keep_alive =
        !f->close && (f->http11 || (f->keep_alive && !f->chunked)) && ret->framing != TB_FRAMING_CLOSE;
    return 0;
}

/* End of head: the byte behind the empty line, or NULL. */
static char *find_head_end(char *buf, size_t len)
{
    char *p = buf, *end = buf + len;

    while ((p = memchr(p, '\n', (size_t)(end - p)))) {
        p++;
        if (p < end && *p == '\n')
            return p + 1;
        if (end - p >= 2 && p[0] == '\r' && p[1] == '\n')
            return p + 2;
    }
    return NULL;
}

ssize_t tb_response_parse(char *buf, size_t len, bool head_request, struct tb_response *ret)
{
    struct framing_facts f = {0};
    char *end = find_head_end(buf, MIN(len, (size_t)TB_RESPONSE_HEAD_MAX)), *line = buf;
    bool first = true;
    int r;

    if (!end)
        return len >= TB_RESPONSE_HEAD_MAX ? -E2BIG : 0;
    memset(ret, 0, offsetof(struct tb_response, header));
    while (line < end) {
        char *nl = memchr(line, '\n', (size_t)(end - line));
        size_t n = (size_t)(nl - line);

        n -= n > 0 && nl[-1] == '\r';
        line[n] = '\0';
        if (!first && n == 0)
            break;
        r = first ? parse_status_line(line, n, ret, &f) : parse_header_line(line, n, ret, &f);
        if (r < 0)
            return r;
        first = false;
        line = nl + 1;
    }
    r = decide_framing(ret, &f, head_request);
    if (r < 0)
        return r;
    drop_hop_by_hop(ret, &f);
    return end - buf;
}

/* Phases of chunked coding: the size's digits, the rest of its line, data, the line end after data,
 * trailer lines. */
enum { CHUNK_SIZE, CHUNK_EXT, CHUNK_DATA, CHUNK_DATA_END, CHUNK_TRAILER };

void tb_body_init(struct tb_body *b, enum tb_framing framing, uint64_t length)
{
    *b = (struct tb_body){.framing = framing, .left = framing == TB_FRAMING_LENGTH ? length : 0};
    b->done = framing == TB_FRAMING_NONE || (framing == TB_FRAMING_LENGTH && length == 0);
}

static int end_of_size_line(struct tb_body *b)
{
    b->phase = b->left > 0 ? CHUNK_DATA : CHUNK_TRAILER;
    b->line = 0;
    return 0;
}

/* One byte of framing between the data. line counts the bytes of the current line that matter. */
static int chunk_framing_byte(struct tb_body *b, char c)
{
    int v = tb_hex_digit(c);

    switch (b->phase) {
    case CHUNK_SIZE:
        if (v >= 0) {
            if (b->line++ >= CHUNK_SIZE_DIGITS)
                return -EBADMSG;
            b->left = b->left * 16 + (unsigned)v;
            return 0;
        }
        if (b->line == 0 || (c != ';' && c != '\r' && c != '\n' && c != ' ' && c != '\t'))
            return -EBADMSG;
        b->phase = CHUNK_EXT;
        return c == '\n' ? end_of_size_line(b) : 0;
    case CHUNK_EXT:
        if (c == '\n')
            return end_of_size_line(b);
        return b->line++ > CHUNK_LINE_MAX ? -EBADMSG : 0;
    case CHUNK_DATA_END:
        if (c == '\r' && b->line == 0) {
            b->line = 1;
            return 0;
        }
        if (c != '\n')
            return -EBADMSG;
        b->phase = CHUNK_SIZE;
        b->line = 0;
        return 0;
    default: /* CHUNK_TRAILER: lines until an empty one, forgotten */
        if (c == '\n' && b->line == 0)
            b->done = true;
        else if (c == '\n')
            b->line = 0;
        else if (c != '\r' && b->line++ > CHUNK_LINE_MAX)
            return -EBADMSG;
        return 0;
    }
}

int tb_body_decode(struct tb_body *b, const char *in, size_t in_len, char *out, size_t out_len,
                   size_t *ret_used, size_t *ret_made)
{
    size_t used = 0, made = 0;
    int r;

    while (!b->done && used < in_len) {
        size_t n;

        if (b->framing == TB_FRAMING_CHUNKED && b->phase != CHUNK_DATA) {
            r = chunk_framing_byte(b, in[used++]);
            if (r < 0)
                return r;
            continue;
        }
        n = MIN(in_len - used, out_len - made);
        if (b->framing != TB_FRAMING_CLOSE)
            n = MIN(n, b->left);
        if (n == 0)
            break;
        if (out + made != in + used)
            memmove(out + made, in + used, n);
        used += n;
        made += n;
        if (b->framing == TB_FRAMING_CLOSE)
            continue;
        b->left -= n;
        if (b->left == 0 && b->framing == TB_FRAMING_LENGTH)
            b->done = true;
        else if (b->left == 0)
            b->phase = CHUNK_DATA_END;
    }
    *ret_used = used;
    *ret_made = made;
    return 0;
}

int tb_body_put_chunk_size(struct tb_buf *b, size_t n)
{
    (void)tb_buf_hex(b, n);
    return tb_buf_append(b, "\r\n", 2);
}
