/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/usage_parser.h"

#include <assert.h>
#include <string.h>

#include "proxy/usage/event_edit.h"
#include "proxy/usage/prompt.h"
#include "proxy/usage/usage_sum.h"

/* --- numbers ------------------------------------------------------------------------------------------ */

/* Where the objects stand: at the top, in "response" (Responses API), in "message" (Messages API), in each
 * element of a list. */
static bool parser_at_usage(const struct tb_json_scan *s)
{
    static const char *const places[] = {"usage", "response.usage", "message.usage", "meta_info"};

    for (size_t i = 0; i < ARRAY_SIZE(places); i++)
        if (tb_json_at(s, places[i]))
            return true;
    return false;
}

static bool parser_at_timings(const struct tb_json_scan *s)
{
    return tb_json_at(s, "timings") || tb_json_at(s, ".timings");
}

static void parser_note_usage(struct tb_usage_halves *u, const char *key, uint64_t v)
{
    const struct {
        const char *key;
        uint64_t *value;
        bool *has;
    } members[] = {
        {"prompt_tokens", &u->prompt, &u->has_prompt},
        {"completion_tokens", &u->completion, &u->has_completion},
        {"total_tokens", &u->total, &u->has_total},
        {"input_tokens", &u->input, &u->has_input},
        {"output_tokens", &u->completion, &u->has_completion},
        {"cache_read_input_tokens", &u->cache_read, &u->has_input},
        {"cache_creation_input_tokens", &u->cache_write, &u->has_input},
    };

    for (size_t i = 0; i < ARRAY_SIZE(members); i++)
        if (strcmp(members[i].key, key) == 0) {
            *members[i].value = v;
            *members[i].has = true;
        }
}

static void parser_note_timings(struct tb_usage_halves *u, const char *key, uint64_t v)
{
    if (strcmp(key, "prompt_n") == 0) {
        u->prompt += v;
        u->has_prompt = true;
    } else if (strcmp(key, "cache_n") == 0) {
        u->prompt += v;
        u->cached = v;
    } else if (strcmp(key, "predicted_n") == 0) {
        u->completion = v;
        u->has_completion = true;
    }
}

static bool parser_is_details(const char *key)
{
    return strcmp(key, "prompt_tokens_details") == 0 || strcmp(key, "input_tokens_details") == 0;
}

/* A number or word ended. What is no whole number counts as not there. */
static void parser_note_number(struct tb_usage_parser *m)
{
    const char *key = tb_json_last_key(&m->scan);
    unsigned depth = m->scan.depth;
    uint64_t v;

    if (m->strip && tb_json_at(&m->scan, "usage") && strcmp(m->scan.value, "null") == 0)
        m->spare_usage = true;
    if (m->events && m->request.api == TB_API_COMPLETION && tb_json_at(&m->scan, "stop") &&
        strcmp(m->scan.value, "true") == 0 && m->request.prompts * m->request.choices < 2)
        m->final = true; /* llama-server's /completion */
    if (!tb_json_scan_uint(&m->scan, &v))
        return;
    v = MIN(v, TB_USAGE_MOST);
    if (m->in_usage && depth == m->in_usage)
        parser_note_usage(&m->now, key, v);
    else if (m->in_usage && depth == m->in_usage + 1 && depth <= TB_JSON_SCAN_LEVELS &&
             parser_is_details(m->scan.level[depth - 2].key) && strcmp(key, "cached_tokens") == 0)
        m->now.cached = v;
    else if (m->in_timings && depth == m->in_timings)
        parser_note_timings(&m->now_timed, key, v);
    else if (tb_json_at(&m->scan, "choices..index") || tb_json_at(&m->scan, "index") ||
             tb_json_at(&m->scan, ".index"))
        m->index = v;
}

/* --- text --------------------------------------------------------------------------------------------- */

/* Whether the string is text that a model wrote, by its place. Responses say the same text several times:
 * deltas, then the whole. */
static bool parser_is_model_text(const struct tb_usage_parser *m)
{
    const struct tb_json_scan *s = &m->scan;
    const char *key = tb_json_last_key(s), *top = s->level[0].array ? "" : s->level[0].key;

    switch (m->request.api) {
    case TB_API_CHAT:
    case TB_API_COMPLETION:
        if (strcmp(top, "choices") == 0)
            return strcmp(key, "content") == 0 || strcmp(key, "text") == 0 || strcmp(key, "arguments") == 0 ||
                   strcmp(key, "refusal") == 0;
        return m->request.api == TB_API_COMPLETION && (tb_json_at(s, "content") || tb_json_at(s, ".content"));
    case TB_API_RESPONSE:
        if (m->events)
            return tb_json_at(s, "delta");
        return strcmp(top, "output") == 0 &&
               (strcmp(key, "text") == 0 || strcmp(key, "arguments") == 0 || strcmp(key, "refusal") == 0);
    case TB_API_MESSAGE:
        if (m->events)
            return strcmp(top, "delta") == 0 && strcmp(key, "type") != 0 && strcmp(key, "stop_reason") != 0 &&
                   strcmp(key, "signature") != 0;
        return strcmp(top, "content") == 0 && strcmp(key, "type") != 0 && strcmp(key, "id") != 0 &&
               strcmp(key, "name") != 0 && strcmp(key, "signature") != 0;
    case TB_API_AUDIO:
        return tb_json_at(s, "text") || (m->events && (tb_json_at(s, "delta") || /* OpenAI's, and vLLM's */
                                                       tb_json_at(s, "choices..delta.content")));
    default:
        return false;
    }
}

static void parser_note_string(struct tb_usage_parser *m)
{
    const char *key = tb_json_last_key(&m->scan);
    bool chat = (m->request.api == TB_API_CHAT || m->request.api == TB_API_COMPLETION) &&
                strcmp(m->scan.level[0].key, "choices") == 0;

    if (m->request.api == TB_API_RESPONSE && strcmp(key, "id") == 0 &&
        (tb_json_at(&m->scan, "id") || tb_json_at(&m->scan, "response.id"))) {
        memcpy(m->id, m->scan.value, sizeof(m->id));
        m->id_cut = m->scan.cut;
    } else if (m->request.api == TB_API_RESPONSE &&
               (tb_json_at(&m->scan, "status") || tb_json_at(&m->scan, "response.status"))) {
        m->over = strcmp(m->scan.value, "queued") != 0 && strcmp(m->scan.value, "in_progress") != 0;
    } else if (strcmp(key, "finish_reason") == 0 && tb_json_at(&m->scan, "choices..finish_reason")) {
        m->finished = true;
        m->choice_length = strcmp(m->scan.value, "length") == 0;
    } else if (tb_json_at(&m->scan, "type") &&
               (strcmp(m->scan.value, "message_start") == 0 || strncmp(m->scan.value, "response.", 9) == 0)) {
        m->inferred = true;
    } else if (tb_json_at(&m->scan, "type") && strcmp(m->scan.value, "message_stop") == 0) {
        m->final = true;
    } else if (chat && strcmp(key, "reasoning_content") == 0) {
        m->reasoning += m->scan.text_len;
    } else if (chat && strcmp(key, "reasoning") == 0) { /* some say it under both names */
        m->reasoning_too += m->scan.text_len;
    } else if (parser_is_model_text(m)) {
        m->choice_text += m->scan.text_len;
    }
}

/* --- what an event or body says ----------------------------------------------------------------------- */

/* The text since the last choice belongs to this one. */
static void parser_choice_ends(struct tb_usage_parser *m)
{
    uint64_t text = m->choice_text + MAX(m->reasoning, m->reasoning_too);
    struct tb_usage_choice *c = &m->choice[MIN(m->index, TB_USAGE_PARSER_CHOICES - 1)];

    m->n_choices = MAX(m->n_choices, MIN(m->index, TB_USAGE_PARSER_CHOICES - 1) + 1);
    c->text += text;
    c->events += text > 0;
    c->length |= m->choice_length;
    m->event_text += text;
    m->choice_text = m->reasoning = m->reasoning_too = 0;
    m->choice_length = false;
}

static void parser_container_begins(struct tb_usage_parser *m)
{
    struct tb_json_scan *s = &m->scan;
    static const char *const shapes[] = {"choices", "output", "content", "data", "results", "embedding"};

    if (!m->in_usage && parser_at_usage(s)) {
        m->in_usage = s->depth + 1;
        m->now = (struct tb_usage_halves){0};
    } else if (!m->in_timings && parser_at_timings(s)) {
        m->in_timings = s->depth + 1;
        m->now_timed = (struct tb_usage_halves){0};
    }
    if (m->strip_each && tb_json_at(s, "usage"))
        m->spare_usage = true;
    for (size_t i = 0; i < ARRAY_SIZE(shapes) && s->depth == 1; i++)
        m->inferred |= tb_json_at(s, shapes[i]);
    /* A choice whose index does not stand in it is told by its place. */
    if (s->depth == 2 && s->level[1].array && strcmp(s->level[0].key, "choices") == 0)
        m->index = s->level[1].items;
}

static void parser_container_ends(struct tb_usage_parser *m)
{
    struct tb_json_scan *s = &m->scan;

    if (m->in_usage == s->depth) {
        m->in_usage = 0;
        m->has_usage = true;
    } else if (m->in_timings == s->depth) {
        m->in_timings = 0;
        m->has_timings = true;
    }
    if (s->depth == 3 && s->level[1].array && !s->level[2].array && strcmp(s->level[0].key, "choices") == 0)
        parser_choice_ends(m);
    else if (s->depth == 2 && tb_json_at(s, "choices."))
        m->bare = s->level[1].items == 0;
    else if (s->depth == 2 && s->level[0].array && !s->level[1].array) /* an element of a list of answers */
        tb_usage_fold(m);
    else if (s->depth == 1 && !m->events)
        tb_usage_fold(m);
}

static void parser_scan(struct tb_usage_parser *m, const char *p, size_t n)
{
    while (n > 0) {
        enum tb_json_token t;
        size_t used = tb_json_scan(&m->scan, p, n, &t);

        p += used;
        n -= used;
        if (t == TB_JSON_DONE)
            parser_note_number(m);
        else if (t == TB_JSON_TEXT)
            parser_note_string(m);
        else if (t == TB_JSON_BEGIN)
            parser_container_begins(m);
        else if (t == TB_JSON_END)
            parser_container_ends(m);
    }
}

void tb_usage_fold(struct tb_usage_parser *m)
{
    if (m->choice_text > 0 || m->reasoning > 0 || m->reasoning_too > 0)
        parser_choice_ends(m);
    if (m->event_text > 0)
        m->inferred = true;
    if (m->has_timings)
        tb_usage_add_timings(m);
    if (m->has_usage)
        tb_usage_add_usage(m);
    m->has_usage = m->has_timings = false;
    m->index = 0;
    m->event_text = 0;
}

/* --- events ------------------------------------------------------------------------------------------- */

static void parser_event_begin(struct tb_usage_parser *m)
{
    /* data: [DONE] */
    m->final |=
        m->scan.bad && m->scan.depth == 1 && m->scan.level[0].array && strcmp(m->scan.value, "DONE") == 0;
    m->bare = m->finished = m->passing = m->spare_usage = false;
    m->begun = true;
    m->in_usage = m->in_timings = 0;
    m->choice_text = m->reasoning = m->reasoning_too = 0;
    m->choice_length = false;
    m->index = m->event_text = 0;
    tb_json_scan_reset(&m->scan);
}

/* Looks at p up to the end of an event or of p; returns how many bytes, *ret_over tells which. */
static size_t parser_event_step(struct tb_usage_parser *m, const char *p, size_t n, bool *ret_over)
{
    enum tb_sse_token t = TB_SSE_MORE;
    size_t used = 0;

    while (used < n && t != TB_SSE_EVENT) {
        used += tb_sse_next(&m->sse, p + used, n - used, &t);
        if (t == TB_SSE_DATA)
            parser_scan(m, m->sse.data, m->sse.data_len);
    }
    *ret_over = t == TB_SSE_EVENT;
    return used;
}

static bool parser_usage_alone(const struct tb_usage_parser *m)
{
    return m->has_usage && m->bare && m->event_text == 0;
}

static int parser_flush(struct tb_usage_parser *m, struct tb_buf *out)
{
    (void)tb_buf_append(out, m->kept.data, m->kept.len);
    (void)tb_buf_append(out, m->held.data, m->held.len);
    m->kept.len = m->held.len = 0;
    return tb_buf_error(out);
}

static int parser_hold(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out)
{
    if (!m->passing && m->held.len + n > TB_USAGE_PARSER_HOLD_MAX) {
        (void)parser_flush(m, out);
        m->passing = true;
    }
    return tb_buf_append(m->passing ? out : &m->held, p, n);
}

/* The usage that we asked for is taken out; what else was in its event goes into the one before. A byte order
 * mark is the stream's, not the event's. */
static int parser_take_out(struct tb_usage_parser *m, struct tb_buf *out)
{
    static const char mark[] = "\xef\xbb\xbf";
    _cleanup_buf_ struct tb_buf extras = {0};
    int r = tb_event_extras(&m->held, &extras);

    if (r >= 0 && !m->begun && m->held.len > 3 && memcmp(m->held.data, mark, 3) == 0)
        r = tb_buf_append(out, mark, 3);
    if (r >= 0 && m->kept.len > 0)
        r = tb_event_splice(&m->kept, &extras, out);
    m->kept.len = m->held.len = 0;
    m->dropped = true;
    return r;
}

/* "usage": null, which tells a client that asked for usage where it is not, is taken out; so is the usage in
 * each event that the client named but would not have got. */
static int parser_clean(struct tb_usage_parser *m)
{
    struct tb_buf clean = {0};
    int r = 0;

    if (m->spare_usage && !m->passing) {
        r = tb_event_without(&m->held, "usage", &clean);
        tb_buf_free(&m->held);
        m->held = clean;
    }
    return r;
}

static int parser_event_over(struct tb_usage_parser *m, struct tb_buf *out)
{
    struct tb_buf event;
    int r;

    m->dropped = false;
    if (parser_usage_alone(m) && !m->passing)
        return parser_take_out(m, out);
    r = parser_clean(m);
    if (r < 0 || !m->finished || m->passing)
        return r < 0 ? r : parser_flush(m, out);
    event = m->held;
    (void)tb_buf_append(out, m->kept.data, m->kept.len);
    m->held = m->kept;
    m->held.len = 0;
    m->kept = event;
    return tb_buf_error(out);
}

int tb_usage_parser_filter(struct tb_usage_parser *m, const char *p, size_t n, struct tb_buf *out)
{
    int r = 0;

    while (n > 0 && r >= 0) {
        bool over;
        size_t used;

        if (m->sse.after_cr && *p == '\n' && m->held.len == 0 && !m->passing) {
            /* Of the event that is over: where that went. */
            used = tb_sse_next(&m->sse, p, 1, &(enum tb_sse_token){0});
            if (!m->dropped)
                r = tb_buf_append(m->kept.len > 0 ? &m->kept : out, p, 1);
        } else {
            used = parser_event_step(m, p, n, &over);
            r = parser_hold(m, p, used, out);
            if (r >= 0 && over)
                r = parser_event_over(m, out);
            if (over) {
                tb_usage_fold(m);
                parser_event_begin(m);
            }
        }
        p += used;
        n -= used;
    }
    return r;
}

void tb_usage_parser_feed(struct tb_usage_parser *m, const char *p, size_t n)
{
    m->bytes += n;
    if (m->opaque)
        return;
    if (!m->events) {
        parser_scan(m, p, n);
        return;
    }
    while (n > 0) {
        bool over;
        size_t used = parser_event_step(m, p, n, &over);

        if (over) {
            tb_usage_fold(m);
            parser_event_begin(m);
        }
        p += used;
        n -= used;
    }
}

int tb_usage_parser_end(struct tb_usage_parser *m, struct tb_buf *out)
{
    bool whole = m->events && m->scan.closed;
    int r = 0;

    if (m->strip && whole && parser_usage_alone(m) && !m->passing) {
        r = parser_take_out(m, out);
    } else if (m->strip) {
        r = whole ? parser_clean(m) : 0;
        if (r >= 0)
            r = parser_flush(m, out);
    }
    if (whole)
        tb_usage_fold(m);
    return r;
}

int tb_usage_parser_cut(struct tb_usage_parser *m, struct tb_buf *out)
{
    m->held.len = 0;
    return m->strip ? parser_flush(m, out) : 0;
}

bool tb_usage_parser_at_line(const struct tb_usage_parser *m)
{
    bool held = m->strip && !m->passing; /* up to the end of its event */

    return (held || tb_sse_at_line(&m->sse)) && !m->sse.after_cr;
}

bool tb_usage_parser_told(const struct tb_usage_parser *m)
{
    return m->over || ((m->all.has_prompt || m->all.has_input) && m->all.has_completion);
}

void tb_usage_parser_clear(struct tb_usage_parser *m)
{
    tb_buf_free(&m->held);
    tb_buf_free(&m->kept);
}
