/* SPDX-License-Identifier: Apache-2.0 */
/* The editor of request bodies. The first byte says how the rest is cut: pieces must not matter. What comes out is exactly as
 * long as was announced. */
#include <stdlib.h>
#include <string.h>

#include "proxy/usage/rewrite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const char *p, size_t n, size_t step, struct tb_rewrite *a, struct tb_buf *out)
{
    *a = (struct tb_rewrite){.kind = TB_API_CHAT};
    for (size_t i = 0; i < n;) {
        size_t used;

        if (tb_rewrite_feed(a, p + i, MIN(step, n - i), out, &used) == 1 &&
            tb_rewrite_close(a, 123456, out) < 0)
            abort();
        i += used;
    }
    if (tb_rewrite_pad(a, out) < 0 || (n > 0 && out->len < n))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_buf one = {0}, two = {0};
    struct tb_rewrite a, b;
    size_t n = size > 0 ? size - 1 : 0;

    if (size == 0)
        return 0;
    run((const char *)data + 1, n, SIZE_MAX, &a, &one);
    run((const char *)data + 1, n, 1 + data[0] % 16, &b, &two);
    if (one.len != two.len || (one.len > 0 && memcmp(one.data, two.data, one.len) != 0) ||
        a.max_tokens != b.max_tokens || a.complete != b.complete ||
        tb_rewrite_completions(&a) != tb_rewrite_completions(&b))
        abort();
    if (one.len != n + TB_REWRITE_GROWTH)
        abort();
    tb_buf_free(&one);
    tb_buf_free(&two);
    return 0;
}
