/* SPDX-License-Identifier: Apache-2.0 */
/* The usage parser: JSON and server-sent events, whatever a runtime sends. The first byte says which API and how the rest is cut: pieces
 * must not matter. The client gets nothing the runtime did not send, and all of it when there is no usage to take out; no tokens are
 * guessed without saying so. */
#include <stdlib.h>
#include <string.h>

#include "proxy/usage/usage_parser.h"
#include "proxy/usage/usage_sum.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(const char *p, size_t n, size_t step, uint8_t how, bool events, bool strip,
                struct tb_tokens *ret, struct tb_buf *out)
{
    struct tb_usage_parser m = {.request = {.api = how & 7,
                                            .choices = 1 + (how >> 3 & 1),
                                            .prompts = 1 + (how >> 4 & 1),
                                            .prompt_likely = 9},
                                .events = events,
                                .strip = strip};

    for (size_t i = 0; i < n; i += step) {
        if (strip && tb_usage_parser_filter(&m, p + i, MIN(step, n - i), out) < 0)
            abort();
        if (!strip)
            tb_usage_parser_feed(&m, p + i, MIN(step, n - i));
        if (m.held.len > TB_USAGE_PARSER_HOLD_MAX || m.kept.len > TB_USAGE_PARSER_HOLD_MAX + 1)
            abort();
    }
    if (tb_usage_parser_end(&m, out) < 0)
        abort();
    if (strip && m.alone == 0 && !memmem(p, n, "null", 4) &&
        (m.request.api == TB_API_CHAT || m.request.api == TB_API_COMPLETION) &&
        (out->len != n || (n > 0 && memcmp(out->data, p, n) != 0)))
        abort();
    tb_usage_parser_result(&m, true, ret);
    if (ret->cached > ret->prompt || ret->ours > ret->prompt + ret->completion ||
        (ret->ours > 0 && !ret->estimated))
        abort();
    if (!ret->known && (ret->prompt || ret->completion))
        abort();
    tb_usage_parser_clear(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_tokens a, b;

    if (size == 0)
        return 0;
    for (int events = 0; events < 2; events++)
        for (int strip = 0; strip <= events; strip++) {
            struct tb_buf one = {0}, two = {0};

            run((const char *)data + 1, size - 1, size, data[0], events, strip, &a, &one);
            run((const char *)data + 1, size - 1, 1 + data[0] % 16, data[0], events, strip, &b, &two);
            if (a.prompt != b.prompt || a.completion != b.completion || a.cached != b.cached ||
                a.ours != b.ours || a.known != b.known || a.estimated != b.estimated || one.len > size - 1)
                abort();
            if (one.len != two.len || (one.len > 0 && memcmp(one.data, two.data, one.len) != 0))
                abort();
            tb_buf_free(&one);
            tb_buf_free(&two);
        }
    return 0;
}
