/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/rewrite.h"

#include <string.h>
#include <strings.h>

enum tb_api tb_api_of(const char *path, size_t len)
{
    static const struct {
        const char *end;
        enum tb_api kind;
    } known[] = {
        {"/chat/completions", TB_API_CHAT}, {"/completions", TB_API_COMPLETION},
        {"/completion", TB_API_COMPLETION}, {"/embeddings", TB_API_EMBEDDING},
        {"/responses", TB_API_RESPONSE},    {"/messages", TB_API_MESSAGE},
    };

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        size_t n = strlen(known[i].end);

        if (len >= n && memcmp(path + len - n, known[i].end, n) == 0)
            return known[i].kind;
    }
    return TB_API_OTHER;
}

static int emit(struct tb_rewrite *a, struct tb_buf *out, const char *p, size_t n)
{
    a->out += n;
    return tb_buf_append(out, p, n);
}

static int emit_string(struct tb_rewrite *a, struct tb_buf *out, const char *s)
{
    return emit(a, out, s, strlen(s));
}

static bool may_inject(const struct tb_rewrite *a)
{
    return a->kind == TB_API_CHAT || a->kind == TB_API_COMPLETION;
}

/* --- what it says ------------------------------------------------------------------------------------------------ */

static bool at_limit(const struct tb_rewrite *a)
{
    static const char *const names[] = {"max_tokens", "max_completion_tokens", "max_output_tokens",
                                        "max_new_tokens", "n_predict"};

    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (tb_json_at(&a->scan, names[i]))
            return true;
    return false;
}

static void note_count(const struct tb_rewrite *a, const char *name, uint64_t *count)
{
    uint64_t v;

    if (tb_json_at(&a->scan, name) && tb_json_scan_uint(&a->scan, &v) && v > *count)
        *count = v;
}

static void note_value(struct tb_rewrite *a)
{
    uint64_t v;

    if (a->scan.depth != 1)
        return;
    if (tb_json_at(&a->scan, "stream"))
        a->stream = strcmp(a->scan.value, "true") == 0;
    note_count(a, "n", &a->n);
    note_count(a, "best_of", &a->best_of);
    if (!at_limit(a))
        return;
    a->max_given = true;
    if (tb_json_scan_uint(&a->scan, &v) && v > 0)
        a->max_tokens = MAX(a->max_tokens, v);
    else
        a->max_bad = true;
}

/* A list of prompts is as many requests. A list of numbers is one prompt in tokens. */
static void note_prompt(struct tb_rewrite *a)
{
    if (tb_json_at(&a->scan, "prompt."))
        a->prompts++;
}

/* --- what is changed --------------------------------------------------------------------------------------------- */

/* A value that we may have to replace begins: it is held back until it is known. */
static void value_begins(struct tb_rewrite *a)
{
    if (!may_inject(a))
        return;
    if (tb_json_at(&a->scan, "stream_options"))
        a->drop = !a->options_seen;
    else if (tb_json_at(&a->scan, "stream_options.include_usage"))
        a->drop = a->options_open;
}

static int value_done(struct tb_rewrite *a, struct tb_buf *out)
{
    note_value(a);
    if (!a->drop)
        return 0;
    a->drop = false;
    if (a->scan.depth == 1) { /* stream_options: null */
        if (!a->stream || strcmp(a->scan.value, "null") != 0)
            return emit_string(a, out, a->scan.value);
        a->options_seen = a->injected = true;
        return emit_string(a, out, "{\"include_usage\":true}");
    }
    a->usage_seen = true;
    a->wants_usage = strcmp(a->scan.value, "true") == 0;
    a->injected = !a->wants_usage;
    return emit_string(a, out, "true");
}

static void container_begins(struct tb_rewrite *a)
{
    note_prompt(a);
    if (at_limit(a) && a->scan.depth == 1)
        a->max_given = a->max_bad = true;
    if (may_inject(a) && a->scan.depth == 1 && tb_json_at(&a->scan, "stream_options")) {
        a->options_open = !a->options_seen;
        a->options_seen = true;
    }
}

/* 1: the object's end is next. */
static int container_ends(struct tb_rewrite *a, struct tb_buf *out)
{
    const struct tb_json_level *options = &a->scan.level[1];

    if (a->scan.depth == 2 && a->options_open) {
        a->options_open = false;
        if (a->usage_seen || options->array)
            return 0;
        a->injected = true;
        return emit_string(a, out, options->items > 0 ? ",\"include_usage\":true" : "\"include_usage\":true");
    }
    if (a->scan.depth > 1 || a->decided)
        return 0;
    a->decided = true;
    a->complete = !a->scan.level[0].array;
    return a->complete;
}

static int token(struct tb_rewrite *a, enum tb_json_token t, struct tb_buf *out)
{
    switch (t) {
    case TB_JSON_VALUE:
        value_begins(a);
        return 0;
    case TB_JSON_DONE:
        return value_done(a, out);
    case TB_JSON_TEXT:
        note_prompt(a);
        if (a->scan.depth == 1 && at_limit(a))
            a->max_given = a->max_bad = true;
        return 0;
    case TB_JSON_BEGIN:
        container_begins(a);
        return 0;
    case TB_JSON_END:
        return container_ends(a, out);
    case TB_JSON_BAD:
        a->complete = false;
        return 0;
    default:
        return 0;
    }
}

int tb_rewrite_feed(struct tb_rewrite *a, const char *p, size_t n, struct tb_buf *out, size_t *ret_used)
{
    *ret_used = 0;
    while (*ret_used < n) {
        enum tb_json_token t;
        size_t used = tb_json_scan(&a->scan, p + *ret_used, n - *ret_used, &t);
        int r = a->drop ? 0 : emit(a, out, p + *ret_used, used);

        *ret_used += used;
        a->in += used;
        if (r >= 0)
            r = token(a, t, out);
        if (r != 0)
            return r;
    }
    return 0;
}

int tb_rewrite_close(struct tb_rewrite *a, uint64_t max_tokens, struct tb_buf *out)
{
    const char *comma = a->scan.level[0].items > 0 ? "," : "";
    char text[64];
    int r = 0;

    if (may_inject(a) && a->stream && !a->options_seen) {
        a->injected = true;
        r = emit_string(a, out, comma);
        if (r >= 0)
            r = emit_string(a, out, "\"stream_options\":{\"include_usage\":true}");
        comma = ",";
    }
    if (r < 0 || max_tokens == 0 || a->max_given)
        return r;
    snprintf(text, sizeof(text), "%s\"%s\":%llu", comma,
             a->kind == TB_API_RESPONSE ? "max_output_tokens" : "max_tokens", (unsigned long long)max_tokens);
    return emit_string(a, out, text);
}

int tb_rewrite_pad(struct tb_rewrite *a, struct tb_buf *out)
{
    static const char blanks[] = "                                ";
    uint64_t want = a->in + TB_REWRITE_GROWTH;
    int r = 0;

    /* It can only be short of that: each edit happens once, and they fit. */
    while (r >= 0 && a->out < want)
        r = emit(a, out, blanks, MIN(want - a->out, sizeof(blanks) - 1));
    return r;
}

uint64_t tb_rewrite_completions(const struct tb_rewrite *a)
{
    uint64_t each = MAX(MAX(a->n, a->best_of), 1), prompts = MAX(a->prompts, 1);

    return each > UINT32_MAX || prompts > UINT32_MAX ? UINT64_MAX : each * prompts;
}
