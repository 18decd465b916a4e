/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events, cut out of a stream: a step function over (buf, len) without I/O or memory. Lines end
 * with CR, LF or both; a byte order mark, comments and fields other than data are passed over; the lines of
 * one event's data are one text. */
#ifndef TB_PROXY_USAGE_SSE_H
#define TB_PROXY_USAGE_SSE_H

#include <stdbool.h>
#include <stddef.h>

enum tb_sse_token {
    TB_SSE_MORE,  /* all bytes are used */
    TB_SSE_DATA,  /* data[0..data_len) is the event's */
    TB_SSE_EVENT, /* the event is over: an empty line */
};

struct tb_sse {
    const char *data; /* DATA: in the caller's bytes, or a line end */
    size_t data_len;
    bool after_cr; /* a line feed that comes next belongs to what was before */
    /* private */
    unsigned field, mark; /* bytes of "data:" and of the mark seen */
    bool line, other, marked;
};

/* Zero-initialise. Uses at most n bytes of p up to the next token; returns how many. */
size_t tb_sse_next(struct tb_sse *s, const char *p, size_t n, enum tb_sse_token *ret);
/* A line has ended, or none has begun. */
bool tb_sse_at_line(const struct tb_sse *s);

#endif
