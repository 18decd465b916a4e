/* SPDX-License-Identifier: Apache-2.0 */
/* The request rewrite. The first byte says which API, whether a limit is set, and how the rest is cut: pieces must not matter. What
 * comes out is exactly as long as was announced, and a strict JSON reader finds in it what was decided on. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "proxy/usage/rewrite.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define CAP 123456u

static int run(const char *p, size_t n, size_t step, uint8_t how, struct tb_rewrite *a, struct tb_buf *out)
{
    static const enum tb_api apis[] = {TB_API_CHAT, TB_API_COMPLETION, TB_API_RESPONSE, TB_API_MESSAGE};

    *a = (struct tb_rewrite){.api = apis[how & 3], .budgeted = how & 4};
    for (size_t i = 0; i < n;) {
        size_t used;
        int r = tb_rewrite_feed(a, p + i, MIN(step, n - i), out, &used);

        if (r == -EEXIST)
            return r;
        if (r == 1 && !a->unclear && tb_rewrite_close(a, how & 8 && a->budgeted ? CAP : 0, out) < 0)
            abort();
        if (r < 0)
            abort();
        i += used;
        if (a->unclear && r == 1)
            return -EINVAL;
    }
    if (tb_rewrite_end(a, tb_rewrite_may_change(a), out) < 0)
        abort();
    return 0;
}

/* How often the outermost object has the member, and the last of them. */
static int members(const cJSON *doc, const char *name, const cJSON **ret)
{
    const cJSON *c;
    int n = 0;

    cJSON_ArrayForEach (c, doc)
        if (c->string && strcmp(c->string, name) == 0) {
            *ret = c;
            n++;
        }
    return n;
}

static void check_members(const struct tb_rewrite *a, uint8_t how, const struct tb_buf *out)
{
    cJSON *doc = cJSON_ParseWithLength(out->data, out->len);
    const cJSON *m = NULL;

    if (!doc) /* it went in so that a strict reader takes it */
        abort();
    if (how & 8 && a->budgeted &&
        (members(doc, tb_api_limit_name(a->api), &m) != 1 || !cJSON_IsNumber(m) ||
         (m->valuedouble != CAP && m->valuedouble != 1)))
        abort();
    if (a->injected && a->stream) {
        if (members(doc, "stream_options", &m) != 1 ||
            !cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(m, "include_usage")))
            abort();
    }
    cJSON_Delete(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tb_buf one = {0}, two = {0};
    struct tb_rewrite a, b;
    size_t n = size > 0 ? size - 1 : 0;
    struct tb_request_size sa, sb;
    const char *p = (const char *)data + 1;
    int r;

    if (size == 0)
        return 0;
    r = run(p, n, SIZE_MAX, data[0], &a, &one);
    if (run(p, n, 1 + data[0] / 16, data[0], &b, &two) != r || a.complete != b.complete)
        abort();
    if (r == 0) {
        cJSON *in = a.complete ? cJSON_ParseWithLength(p, n) : NULL;

        tb_rewrite_size(&a, 7, &sa);
        tb_rewrite_size(&b, 7, &sb);
        if (one.len != two.len || sa.prompt_likely != sb.prompt_likely || sa.prompt_most != sb.prompt_most ||
            sa.templates != sb.templates || sa.completions != sb.completions ||
            sa.max_tokens != sb.max_tokens || sa.open != sb.open)
            abort();
        if (a.complete && one.len > 0 && memcmp(one.data, two.data, one.len) != 0)
            abort();
        if (one.len != n + (tb_rewrite_may_change(&a) ? TB_REWRITE_GROWTH : 0))
            abort();
        if (in && one.len > 0)
            check_members(&a, data[0], &one);
        cJSON_Delete(in);
    }
    tb_buf_free(&one);
    tb_buf_free(&two);
    return 0;
}
