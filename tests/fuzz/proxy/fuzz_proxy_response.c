/* SPDX-License-Identifier: Apache-2.0 */
/* Response heads and chunked bodies. The body is decoded twice, in pieces of different sizes: the bytes must be the same. */
#include <stdlib.h>
#include <string.h>

#include "proxy/http/response.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int decode(const struct tb_response *rs, const char *in, size_t len, size_t step, size_t room,
                  char *out, size_t *ret_made)
{
    struct tb_body b;
    size_t at = 0, made = 0;

    tb_body_init(&b, rs->framing, rs->length);
    while (!b.done && at < len) {
        size_t used, n, piece = step < len - at ? step : len - at;

        if (tb_body_decode(&b, in + at, piece, out + made, room, &used, &n) < 0) {
            *ret_made = 0;
            return -1;
        }
        at += used;
        made += n;
        if (used == 0 && n == 0)
            abort(); /* no progress although there is input and room */
    }
    *ret_made = made;
    return b.done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_response rs;
    size_t n1, n2;
    char *buf, *a, *b;
    ssize_t head;
    int r1, r2;

    if (size < 3 || size > 100000)
        return 0;
    buf = malloc(size - 2);
    memcpy(buf, data + 2, size - 2);
    head = tb_response_parse(buf, size - 2, data[0] & 1, &rs);
    if (head > 0) {
        size_t len = size - 2 - (size_t)head;

        a = malloc(len + 512);
        b = malloc(len + 512);
        r1 = decode(&rs, buf + head, len, len, len + 1, a, &n1);
        r2 = decode(&rs, buf + head, len, 1 + data[0] / 2, 1 + data[1], b, &n2);
        if (r1 != r2 || n1 != n2 || memcmp(a, b, n1) != 0)
            abort();
        free(a);
        free(b);
    }
    free(buf);
    return 0;
}
