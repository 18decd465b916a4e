/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/body.h"

#include <errno.h>
#include <string.h>

#include "common/hex.h"
#include "common/macros.h"

#define SIZE_DIGITS_MAX 15

/* Of chunked coding: where the next byte belongs. */
enum {
    SIZE,      /* the digits of a chunk's size */
    EXTENSION, /* behind them, up to CR */
    SIZE_LF,   /* the LF of that line */
    DATA,      /* of the chunk */
    DATA_CR,   /* the line end behind it */
    DATA_LF,
    TRAILER,       /* the beginning of a trailer field, or of the last line */
    TRAILER_NAME,  /* within its name */
    TRAILER_VALUE, /* behind its colon */
    TRAILER_LF,    /* the LF of its line */
    LAST_LF,       /* the LF of the last line */
};

void tb_request_body_init(struct tb_request_body *b, const struct tb_request *rq)
{
    *b = (struct tb_request_body){.chunked = rq->chunked, .left = rq->has_length ? rq->length : 0};
    b->done = !b->chunked && b->left == 0;
}

static int body_bad(const char **ret, const char *why)
{
    *ret = why;
    return -EBADMSG;
}

static bool body_in_line(char c)
{
    return (unsigned char)c >= 0x20 ? c != 0x7f : c == '\t';
}

static int body_size_octet(struct tb_request_body *b, char c, const char **why)
{
    int v = tb_hex_digit(c);

    if (v >= 0) {
        if (b->digits++ >= SIZE_DIGITS_MAX)
            return body_bad(why, "a chunk is too large");
        b->left = b->left * 16 + (unsigned)v;
        return 0;
    }
    if (b->digits == 0 || (c != ';' && c != '\r'))
        return body_bad(why, "the size of a chunk is not a hexadecimal number");
    b->phase = c == ';' ? EXTENSION : SIZE_LF;
    return 0;
}

static int body_extension_octet(struct tb_request_body *b, char c, const char **why)
{
    if (c == '\r')
        b->phase = SIZE_LF;
    else if (!body_in_line(c))
        return body_bad(why, "a chunk extension has a control character");
    else if (++b->extra > TB_BODY_LINES_MAX)
        return body_bad(why, "the chunk extensions are too large");
    return 0;
}

static int body_trailer_octet(struct tb_request_body *b, char c, const char **why)
{
    bool token = tb_header_name_valid(&c, 1);

    if (++b->extra > TB_BODY_LINES_MAX)
        return body_bad(why, "the trailer fields are too large");
    if (b->phase == TRAILER_VALUE) {
        if (c != '\r' && !body_in_line(c))
            return body_bad(why, "a trailer field has a control character");
        b->phase = c == '\r' ? TRAILER_LF : TRAILER_VALUE;
        return 0;
    }
    if (b->phase == TRAILER && c == '\r')
        b->phase = LAST_LF;
    else if (b->phase == TRAILER_NAME && c == ':')
        b->phase = TRAILER_VALUE;
    else if (token)
        b->phase = TRAILER_NAME;
    else
        return body_bad(why, "a trailer field is malformed");
    return 0;
}

static int body_line_end_octet(struct tb_request_body *b, char c, const char **why)
{
    static const unsigned next[] = {
        [SIZE_LF] = DATA, [DATA_CR] = DATA_LF, [DATA_LF] = SIZE, [TRAILER_LF] = TRAILER, [LAST_LF] = SIZE};

    if (c != (b->phase == DATA_CR ? '\r' : '\n'))
        return body_bad(why, b->phase == DATA_CR || b->phase == DATA_LF
                                 ? "a chunk is longer than its size says"
                                 : "a line of the chunked body does not end in CR LF");
    b->done = b->phase == LAST_LF;
    b->phase = b->phase == SIZE_LF && b->left == 0 ? TRAILER : next[b->phase];
    b->digits = 0;
    return 0;
}

/* One byte of what stands between the data. */
static int body_framing_octet(struct tb_request_body *b, char c, const char **why)
{
    switch (b->phase) {
    case SIZE:
        return body_size_octet(b, c, why);
    case EXTENSION:
        return body_extension_octet(b, c, why);
    case TRAILER:
    case TRAILER_NAME:
    case TRAILER_VALUE:
        return body_trailer_octet(b, c, why);
    default:
        return body_line_end_octet(b, c, why);
    }
}

static int body_decode_chunked(struct tb_request_body *b, char *buf, size_t len, size_t *ret_used,
                               size_t *ret_made, const char **why)
{
    size_t used = 0, made = 0;

    while (!b->done && used < len) {
        size_t n;
        int r;

        if (b->phase != DATA) {
            r = body_framing_octet(b, buf[used++], why);
            if (r < 0)
                return r;
            continue;
        }
        n = MIN(len - used, b->left);
        if (made != used)
            memmove(buf + made, buf + used, n);
        used += n;
        made += n;
        b->left -= n;
        if (b->left == 0)
            b->phase = DATA_CR;
    }
    *ret_used = used;
    *ret_made = made;
    return 0;
}

int tb_request_body_decode(struct tb_request_body *b, char *buf, size_t len, size_t *ret_used,
                           size_t *ret_made, const char **ret_why)
{
    size_t n = MIN(len, b->left);

    if (b->chunked)
        return body_decode_chunked(b, buf, len, ret_used, ret_made, ret_why);
    b->left -= n;
    b->done = b->left == 0;
    *ret_used = *ret_made = n;
    return 0;
}
