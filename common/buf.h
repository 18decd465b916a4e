/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer. Reading takes from the front, writing appends. Its error is sticky: once an append
 * has failed, nothing more is added and each call returns that first error, so that a text is built without
 * looking and checked once, at its end. */
#ifndef TB_BUF_H
#define TB_BUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/macros.h"

struct tb_buf {
    char *data;      /* not terminated; NULL while nothing was added */
    size_t len, cap; /* bytes */
    size_t max;      /* it never holds more bytes than this; 0: no limit */
    int error;       /* 0, or the negative errno of the first append that failed */
    bool secret;     /* memory is wiped before it is given back */
};

/* All return 0 or the sticky error: -ENOMEM; -EFBIG beyond max; -EOVERFLOW from tb_buf_printf(). */

/* For tb_buf_reserve(). */
int tb_buf_grow(struct tb_buf *b, size_t n);
/* Makes room for n bytes behind data[len], which the caller then writes and counts. */
static inline int tb_buf_reserve(struct tb_buf *b, size_t n)
{
    return b->error == 0 && b->max == 0 && n <= b->cap - b->len ? 0 : tb_buf_grow(b, n);
}

static inline int tb_buf_append(struct tb_buf *b, const void *p, size_t n)
{
    int r = tb_buf_reserve(b, n);

    if (r < 0)
        return r;
    if (n > 0)
        memcpy(b->data + b->len, p, n);
    b->len += n;
    return 0;
}

static inline int tb_buf_puts(struct tb_buf *b, const char *s)
{
    return tb_buf_append(b, s, strlen(s));
}
/* At most 511 bytes of text: long values go through tb_buf_append(). */
int tb_buf_printf(struct tb_buf *b, const char *fmt, ...) _printf_(2, 3);
/* In decimal, and in hex. */
int tb_buf_uint(struct tb_buf *b, uint64_t v);
int tb_buf_hex(struct tb_buf *b, uint64_t v);
/* s as a JSON string with its quotes; bytes outside printable ASCII become \u00xx, so that the result is
 * always ASCII. */
int tb_buf_json_string(struct tb_buf *b, const char *s, size_t n);
static inline int tb_buf_error(const struct tb_buf *b)
{
    return b->error;
}

/* Drops the first n bytes; n is at most len. */
void tb_buf_consume(struct tb_buf *b, size_t n);
/* Empties it and forgets the error; memory and max stay. */
void tb_buf_clear(struct tb_buf *b);
/* Releases the memory; what is left is an empty buffer without limit. */
void tb_buf_free(struct tb_buf *b);
#define _cleanup_buf_ _cleanup_(tb_buf_free)

#endif
