/* SPDX-License-Identifier: Apache-2.0 */
/* A growing byte buffer. Reading takes from the front, writing appends; it never grows beyond what its user asks. */
#ifndef TB_BUF_H
#define TB_BUF_H

#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

struct tb_buf {
    char *data;
    size_t len, cap;
};

/* Makes room for n bytes behind data[len]. 0 or -ENOMEM. */
int tb_buf_reserve(struct tb_buf *b, size_t n);
int tb_buf_append(struct tb_buf *b, const void *p, size_t n);
int tb_buf_puts(struct tb_buf *b, const char *s);
int tb_buf_printf(struct tb_buf *b, const char *fmt, ...) _printf_(2, 3);
/* s as a JSON string with its quotes; bytes outside printable ASCII become \u00xx, so that the result is always ASCII. */
int tb_buf_json_string(struct tb_buf *b, const char *s, size_t n);
/* Drops the first n bytes. */
void tb_buf_consume(struct tb_buf *b, size_t n);
void tb_buf_free(struct tb_buf *b);
#define _cleanup_buf_ _cleanup_(tb_buf_free)

#endif
