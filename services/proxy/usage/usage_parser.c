/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/usage_parser.h"

#include <string.h>
#include <strings.h>

#define BYTES_PER_TOKEN 4 /* of common models on English text */

/* --- what an event or body says ---------------------------------------------------------------------------------- */

/* The place of usage: at the top, in "response" (Responses API) or in "message" (Messages API). */
static bool at(const struct tb_json_scan *s, const char *path)
{
    static const char *const outer[] = {"", "response.", "message."};

    for (size_t i = 0; i < ARRAY_SIZE(outer); i++) {
        char whole[96];

        snprintf(whole, sizeof(whole), "%s%s", outer[i], path);
        if (tb_json_at(s, whole))
            return true;
    }
    return false;
}

static void note_number(struct tb_usage_parser *m)
{
    const struct {
        const char *path;
        uint64_t *value;
        bool *has;
    } numbers[] = {
        {"usage.prompt_tokens", &m->prompt, &m->has_usage},
        {"usage.completion_tokens", &m->completion, &m->has_usage},
        {"usage.total_tokens", &m->total, &m->has_usage},
        {"usage.input_tokens", &m->input, &m->has_usage},
        {"usage.output_tokens", &m->completion, &m->has_usage},
        {"usage.prompt_tokens_details.cached_tokens", &m->cached, &m->has_usage},
        {"usage.input_tokens_details.cached_tokens", &m->cached, &m->has_usage},
        {"usage.cache_read_input_tokens", &m->cache_read, &m->has_usage},
        {"usage.cache_creation_input_tokens", &m->cache_write, &m->has_usage},
        {"timings.prompt_n", &m->timed_prompt, &m->has_timings},
        {"timings.cache_n", &m->timed_cache, &m->has_timings},
        {"timings.predicted_n", &m->timed_completion, &m->has_timings},
    };
    const char *key = tb_json_last_key(&m->scan);
    uint64_t v;

    if (m->scan.depth < 2 || key[0] == '\0' || !tb_json_scan_uint(&m->scan, &v))
        return;
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        if (strcasecmp(strrchr(numbers[i].path, '.') + 1, key) != 0 || !at(&m->scan, numbers[i].path))
            continue;
        *numbers[i].value = MAX(*numbers[i].value, v); /* in a stream they grow */
        *numbers[i].has = true;
    }
}

/* A string that a model wrote. */
static void note_text(struct tb_usage_parser *m)
{
    static const char *const keys[] = {"content",      "text",      "reasoning_content",
                                       "reasoning",    "arguments", "delta",
                                       "partial_json", "thinking",  "refusal"};
    const char *key = tb_json_last_key(&m->scan);

    for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
        if (strcmp(key, keys[i]) == 0 && m->scan.text_len > 0) {
            m->event_text = true;
            m->text_bytes += m->scan.text_len;
        }
}

static void scan(struct tb_usage_parser *m, const char *p, size_t n)
{
    while (n > 0) {
        enum tb_json_token t;
        size_t used = tb_json_scan(&m->scan, p, n, &t);

        p += used;
        n -= used;
        if (t == TB_JSON_DONE)
            note_number(m);
        else if (t == TB_JSON_TEXT)
            note_text(m);
        else if (t == TB_JSON_BEGIN && strcasecmp(tb_json_last_key(&m->scan), "usage") == 0 &&
                 at(&m->scan, "usage"))
            m->event_usage = true;
        else if (t == TB_JSON_END && m->scan.depth == 2 && tb_json_at(&m->scan, "choices."))
            m->event_bare = m->scan.level[1].items == 0;
    }
}

/* --- events ------------------------------------------------------------------------------------------------------ */

static void event_begin(struct tb_usage_parser *m)
{
    m->event_usage = m->event_text = m->event_bare = m->passing = false;
    m->scan = (struct tb_json_scan){0};
}

static bool usage_alone(const struct tb_usage_parser *m)
{
    return m->event_usage && m->event_bare && !m->event_text;
}

/* The bytes of one line or of a part of it, without the line end. */
static void line_bytes(struct tb_usage_parser *m, const char *p, size_t n)
{
    static const char field[] = "data:";

    if (n > 0 && m->line == 0)
        m->lone_cr = *p == '\r';
    for (; n > 0 && m->line < sizeof(field) - 1; p++, n--, m->line++)
        m->data = (m->line == 0 || m->data) && *p == field[m->line];
    if (n > 0 && m->data)
        scan(m, p, n);
}

/* True when the line just ended was empty: the event is over. */
static bool line_end(struct tb_usage_parser *m)
{
    bool empty = m->line == 0 || (m->line == 1 && m->lone_cr);

    if (m->data)
        scan(m, "\n", 1); /* lines of one event are one text */
    m->line = 0;
    m->data = false;
    return empty;
}

/* Looks at p up to the end of an event or of p; returns how many bytes, *ret_over tells which. */
static size_t event_step(struct tb_usage_parser *m, const char *p, size_t n, bool *ret_over)
{
    size_t done = 0;

    *ret_over = false;
    while (done < n && !*ret_over) {
        const char *nl = memchr(p + done, '\n', n - done);
        size_t len = nl ? (size_t)(nl - (p + done)) : n - done;

        line_bytes(m, p + done, len);
        if (nl)
            *ret_over = line_end(m);
        done += len + (nl ? 1 : 0);
    }
    if (*ret_over) {
        m->pieces += m->event_text;
        m->final |= usage_alone(m);
    }
    return done;
}

static int hold(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out)
{
    int r = 0;

    if (!m->passing && m->held.len + n > TB_USAGE_PARSER_HOLD_MAX) {
        r = tb_usage_parser_flush(m, out);
        m->passing = true;
    }
    if (r < 0)
        return r;
    return tb_buf_append(m->passing ? out : &m->held, p, n);
}

int tb_usage_parser_filter(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out)
{
    while (n > 0) {
        bool over;
        size_t used = event_step(m, p, n, &over);
        int r = hold(m, p, used, out);

        if (r >= 0 && over && usage_alone(m) && !m->passing)
            m->held.len = 0;
        if (r >= 0 && over)
            r = tb_usage_parser_flush(m, out);
        if (r < 0)
            return r;
        if (over)
            event_begin(m);
        p += used;
        n -= used;
    }
    return 0;
}

int tb_usage_parser_flush(struct tb_usage_parser *m, struct tb_buf *out)
{
    int r = tb_buf_append(out, m->held.data, m->held.len);

    m->held.len = 0;
    return r;
}

void tb_usage_parser_feed(struct tb_usage_parser *m, const char *p, size_t n)
{
    if (!m->events)
        return scan(m, p, n);
    while (n > 0) {
        bool over;
        size_t used = event_step(m, p, n, &over);

        if (over)
            event_begin(m);
        p += used;
        n -= used;
    }
}

/* --- the sum ----------------------------------------------------------------------------------------------------- */

void tb_usage_parser_result(const struct tb_usage_parser *m, bool complete, uint64_t prompt_bytes,
                            struct tb_tokens *ret)
{
    bool whole_body = !m->events && m->scan.closed && m->has_usage;
    uint64_t counted = m->events ? m->pieces : (m->text_bytes + BYTES_PER_TOKEN - 1) / BYTES_PER_TOKEN;

    *ret = (struct tb_tokens){.known = m->has_usage || m->has_timings || counted > 0};
    if (m->has_usage) {
        ret->prompt = MAX(m->prompt, m->input + m->cache_read + m->cache_write);
        ret->completion = m->completion;
        ret->cached = MAX(m->cached, m->cache_read);
        if (ret->prompt == 0 && m->total > m->completion)
            ret->prompt = m->total - m->completion;
    } else if (m->has_timings) {
        ret->prompt = m->timed_prompt + m->timed_cache;
        ret->completion = m->timed_completion;
        ret->cached = m->timed_cache;
    } else if (counted > 0) {
        ret->prompt = ret->ours = prompt_bytes / BYTES_PER_TOKEN;
    }
    ret->estimated =
        !(complete && (m->has_usage || m->has_timings)) && !m->final && !whole_body && ret->known;
    if (ret->estimated && counted > ret->completion) {
        ret->ours += counted - ret->completion;
        ret->completion = counted;
    }
    ret->cached = MIN(ret->cached, ret->prompt);
}

void tb_usage_parser_clear(struct tb_usage_parser *m)
{
    tb_buf_free(&m->held);
}
