/* SPDX-License-Identifier: Apache-2.0 */
/* Paths of the admin API and their queries. */
#include <string.h>

#include "common/buf.h"
#include "common/macros.h"
#include "common/percent.h"
#include "provider/remote/remote.h"

static void path_put_encoded(struct tb_buf *b, const char *s)
{
    for (; *s; s++) {
        char out[TB_PERCENT_CHAR_MAX];

        tb_buf_append(b, out, tb_percent_encode_char(*s, "", out));
    }
}

static char *path_take_text(struct tb_buf *b)
{
    char *s;

    tb_buf_append(b, "", 1);
    if (tb_buf_error(b) < 0)
        return NULL;
    s = b->data;
    *b = (struct tb_buf){0};
    return s;
}

char *remote_path_of(const char *const *segments)
{
    _cleanup_buf_ struct tb_buf b = {0};

    for (size_t i = 0; segments[i]; i++) {
        tb_buf_puts(&b, i > 0 ? "/" : "");
        path_put_encoded(&b, segments[i]);
    }
    return path_take_text(&b);
}

char *remote_query(char *path, const char *name, const char *value)
{
    _cleanup_free_ char *old = path;
    _cleanup_buf_ struct tb_buf b = {0};

    if (!path || !value)
        return TAKE_PTR(old);
    tb_buf_puts(&b, path);
    tb_buf_puts(&b, strchr(path, '?') ? "&" : "?");
    tb_buf_puts(&b, name);
    tb_buf_puts(&b, "=");
    path_put_encoded(&b, value);
    return path_take_text(&b);
}
