/* SPDX-License-Identifier: Apache-2.0 */
/* Heads of requests, their targets and bodies. What comes in pieces means what it means in one; nothing that is accepted holds a line
 * end or a NUL; a normalised target stays as it is. */
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "proxy/http/body.h"
#include "proxy/http/request.h"
#include "proxy/http/target.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_text(const char *s, size_t len)
{
    if (strlen(s) != len || strpbrk(s, "\r\n"))
        abort();
}

static void check_target(const char *raw, size_t len)
{
    char *text = malloc(TB_TARGET_ROOM(len)), *twice;
    struct tb_target_refusal why;
    struct tb_target t, again;

    if (tb_target_parse(raw, len, text, &t, &why) && t.form != TB_TARGET_ASTERISK) {
        size_t n = strlen(t.text);

        if (t.text[0] != '/' || strcspn(t.text, "?") != t.path_len || memmem(t.text, t.path_len, "//", 2) ||
            memmem(t.text, t.path_len, "/../", 4) || memmem(t.text, t.path_len, "/./", 3))
            abort();
        twice = malloc(TB_TARGET_ROOM(n));
        if (!tb_target_parse(t.text, n, twice, &again, &why) || strcmp(again.text, t.text) != 0)
            abort();
        free(twice);
    }
    free(text);
}

/* Decodes in[0..len) in pieces; the body, and how far it went; -1 when it is refused. */
static ssize_t decode(const struct tb_request *rq, const char *in, size_t len, size_t step, char *out)
{
    struct tb_request_body b;
    size_t at = 0, n = 0;

    tb_request_body_init(&b, rq);
    while (!b.done && at < len) {
        size_t size = MIN(step, len - at), used, made;
        char *piece = malloc(size);
        const char *why;
        int r;

        memcpy(piece, in + at, size);
        r = tb_request_body_decode(&b, piece, size, &used, &made, &why);
        if (r == 0) {
            if (used == 0 || made > used)
                abort();
            memcpy(out + n, piece, made);
            n += made;
            at += used;
        }
        free(piece);
        if (r < 0)
            return -1;
    }
    return (ssize_t)n;
}

static void check_body(const struct tb_request *rq, const char *in, size_t len, size_t step)
{
    char *one = malloc(len + 1), *two = malloc(len + 1);
    ssize_t n = decode(rq, in, len, len + 1, one), m = decode(rq, in, len, step, two);

    if (n != m || (n > 0 && memcmp(one, two, (size_t)n) != 0))
        abort();
    free(one);
    free(two);
}

static ssize_t parse_pieces(const uint8_t *data, size_t size, size_t step, char *buf, struct tb_request *rq)
{
    struct tb_request_scan scan = {0};
    ssize_t r = 0;

    memcpy(buf, data, size);
    for (size_t have = 0; r == 0 && have < size;) {
        have = MIN(have + step, size);
        r = tb_request_parse(buf, have, &scan, rq);
    }
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tb_request whole, pieces;
    size_t step;
    char *a, *b;
    ssize_t r, s;

    if (size < 2)
        return 0;
    step = 1 + data[0];
    data++;
    size--;
    a = malloc(size);
    b = malloc(size);
    r = parse_pieces(data, size, size, a, &whole);
    s = parse_pieces(data, size, step, b, &pieces);
    if (r != s || whole.refusal.status != pieces.refusal.status || whole.n_fields != pieces.n_fields)
        abort();
    if (r > 0) {
        check_text(whole.method, whole.method_len);
        check_text(whole.target, whole.target_len);
        for (size_t i = 0; i < whole.n_fields; i++) {
            check_text(whole.field[i].name, whole.field[i].name_len);
            check_text(whole.field[i].value, whole.field[i].value_len);
        }
        check_target(whole.target, whole.target_len);
        if (!tb_request_verify(&whole))
            check_body(&whole, a + r, size - (size_t)r, step);
    }
    free(a);
    free(b);
    return 0;
}
