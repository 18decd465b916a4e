/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/rewrite.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "proxy/usage/coerce.h"

/* What is held back: nothing; a member until its key is known; a member that is written at the end, if at
 * all; stream_options until it is known to have a member; the value of include_usage. */
enum { HOLD_NONE, HOLD_KEY, HOLD_TO_END, HOLD_OPTIONS, HOLD_USAGE };

static int rewrite_emit(struct tb_rewrite *a, struct tb_buf *out, const char *p, size_t n)
{
    a->out += n;
    return tb_buf_append(out, p, n);
}

static int rewrite_emit_string(struct tb_rewrite *a, struct tb_buf *out, const char *s)
{
    return rewrite_emit(a, out, s, strlen(s));
}

static bool rewrite_may_inject(const struct tb_rewrite *a)
{
    return a->api == TB_API_CHAT || a->api == TB_API_COMPLETION;
}

bool tb_rewrite_may_change(const struct tb_rewrite *a)
{
    return rewrite_may_inject(a) || (a->budgeted && tb_api_generates(a->api));
}

/* --- what is held back -------------------------------------------------------------------------------- */

/* The held bytes go out. A comma does only when a member went before. */
static int rewrite_release(struct tb_rewrite *a, struct tb_buf *out)
{
    size_t skip = a->held_len > 0 && a->held[0] == ',' && !a->members_out;
    size_t n = a->held_len;

    if (a->hold == HOLD_USAGE)
        skip = 0;
    else
        a->members_out = true;
    a->hold = HOLD_NONE;
    a->held_len = 0;
    return rewrite_emit(a, out, a->held + skip, n - skip);
}

static void rewrite_drop(struct tb_rewrite *a)
{
    a->hold = HOLD_NONE;
    a->held_len = 0;
}

/* Blanks between comma and key go out alone, so that no number of them fills what holds the key. */
static int rewrite_release_blanks(struct tb_rewrite *a, struct tb_buf *out)
{
    size_t blanks = a->held_len > 0 && a->held[0] == ',' ? strspn(a->held + 1, " \t\r\n") : 0;
    int r;

    if (blanks == 0)
        return 0;
    r = rewrite_emit(a, out, a->held + 1, blanks);
    a->held_len -= blanks;
    memmove(a->held + 1, a->held + 1 + blanks, a->held_len - 1);
    a->held[a->held_len] = '\0';
    return r;
}

static bool rewrite_is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static int rewrite_hold(struct tb_rewrite *a, const char *p, size_t n, struct tb_buf *out)
{
    for (size_t i = 0; i < n; i++) {
        int r = 0;

        if (a->hold == HOLD_OPTIONS || a->hold == HOLD_USAGE) {
            a->value_begun |= !rewrite_is_blank(p[i]) && p[i] != ':';
            if (rewrite_is_blank(p[i]) && (!a->value_begun || a->held[a->held_len - 1] == '{'))
                continue;
        }
        if (a->held_len == TB_REWRITE_HELD - 1 && a->hold == HOLD_KEY)
            r = rewrite_release_blanks(a, out);
        if (r >= 0 && a->held_len == TB_REWRITE_HELD - 1)
            r = rewrite_release(a, out);
        if (r < 0)
            return r;
        if (a->hold == HOLD_NONE)
            return rewrite_emit(a, out, p + i, n - i);
        a->held[a->held_len++] = p[i];
        a->held[a->held_len] = '\0';
    }
    return 0;
}

static int rewrite_take(struct tb_rewrite *a, const char *p, size_t n, struct tb_buf *out)
{
    if (a->hold == HOLD_NONE)
        return rewrite_emit(a, out, p, n);
    return a->hold == HOLD_TO_END ? 0 : rewrite_hold(a, p, n, out);
}

/* --- what it says ------------------------------------------------------------------------------------- */

static const char *const deciding[] = {"stream",
                                       "stream_options",
                                       "max_tokens",
                                       "max_completion_tokens",
                                       "max_output_tokens",
                                       "n_predict",
                                       "n",
                                       "n_cmpl",
                                       "best_of",
                                       "background",
                                       "previous_response_id",
                                       "conversation",
                                       "chat_template",
                                       "prompt_embeds",
                                       "prompt",
                                       "messages",
                                       "input",
                                       "system",
                                       "instructions",
                                       "tools",
                                       "include_usage",
                                       "continuous_usage_stats"};

/* Marks the name as seen. False when it was. */
static bool rewrite_first_time(struct tb_rewrite *a, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(deciding); i++) {
        if (strcmp(deciding[i], name) != 0)
            continue;
        if (a->seen & 1ULL << i)
            a->repeated = deciding[i];
        a->seen |= 1ULL << i;
    }
    return !a->repeated;
}

static void rewrite_unclear(struct tb_rewrite *a, const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(deciding); i++)
        if (strcmp(deciding[i], name) == 0)
            a->unclear = deciding[i];
}

static void rewrite_note_limit(struct tb_rewrite *a, enum tb_json_token t)
{
    struct tb_rewrite_limit *l = &a->limit[a->n_limits++];
    enum tb_coerced how;

    assert(a->n_limits <= TB_REWRITE_LIMITS);
    how = tb_coerce_int(&a->scan, t, &l->number);
    memcpy(l->name, a->name, sizeof(l->name));
    memcpy(l->value, a->scan.value, sizeof(l->value));
    l->string = t == TB_JSON_TEXT;
    l->extra = a->member == TB_MEMBER_LIMIT_EXTRA;
    l->null = how == TB_COERCED_NULL;
    if (how != TB_COERCED_VALUE)
        l->number = -1;
    if (how == TB_COERCED_INVALID)
        rewrite_unclear(a, a->name);
    else if (l->number >= 0) /* 0 is one token for some, no limit for others */
        a->max_tokens = MAX(a->max_tokens, (uint64_t)MAX(l->number, 1));
}

static void rewrite_note_count(struct tb_rewrite *a, enum tb_json_token t)
{
    int64_t v;
    enum tb_coerced how = tb_coerce_int(&a->scan, t, &v);

    if (how == TB_COERCED_INVALID)
        rewrite_unclear(a, a->name);
    else if (how == TB_COERCED_VALUE && v > 0)
        a->choices = MAX(a->choices, (uint64_t)v);
}

static void rewrite_note_bool(struct tb_rewrite *a, enum tb_json_token t, bool *ret)
{
    if (tb_coerce_bool(&a->scan, t, ret) == TB_COERCED_INVALID)
        rewrite_unclear(a, a->name);
}

static void rewrite_note_previous(struct tb_rewrite *a)
{
    memcpy(a->previous, a->scan.value, sizeof(a->previous));
    a->prompt.continues = true;
}

/* A number, word or string ended. */
static void rewrite_note_value(struct tb_rewrite *a, enum tb_json_token t)
{
    tb_prompt_note(&a->prompt, a->api, &a->scan, t);
    if (a->scan.depth != 1)
        return;
    if (a->member == TB_MEMBER_STREAM)
        rewrite_note_bool(a, t, &a->stream);
    else if (a->member == TB_MEMBER_BACKGROUND)
        rewrite_note_bool(a, t, &a->background);
    else if (a->member == TB_MEMBER_LIMIT || a->member == TB_MEMBER_LIMIT_EXTRA)
        rewrite_note_limit(a, t);
    else if (a->member == TB_MEMBER_COUNT)
        rewrite_note_count(a, t);
    else if (a->member == TB_MEMBER_PREVIOUS && t == TB_JSON_TEXT && !a->scan.cut && a->scan.value[0])
        rewrite_note_previous(a);
    else if ((a->member == TB_MEMBER_CONTEXT || a->member == TB_MEMBER_PREVIOUS) &&
             (t == TB_JSON_TEXT || strcmp(a->scan.value, "null") != 0))
        a->prompt.elsewhere = true;
}

/* An object or array begins. */
static void rewrite_note_container(struct tb_rewrite *a)
{
    tb_prompt_note(&a->prompt, a->api, &a->scan, TB_JSON_BEGIN);
    if (a->scan.depth != 1)
        return;
    if (a->member == TB_MEMBER_TOOLS)
        a->prompt.tools = true;
    else if (a->member == TB_MEMBER_CONTEXT || a->member == TB_MEMBER_PREVIOUS)
        a->prompt.elsewhere = true;
    else if (a->member != TB_MEMBER_NONE && a->member != TB_MEMBER_STREAM_OPTIONS &&
             a->member != TB_MEMBER_PROMPT)
        rewrite_unclear(a, a->name);
}

/* --- what is changed ---------------------------------------------------------------------------------- */

static int rewrite_member_begins(struct tb_rewrite *a)
{
    a->member = TB_MEMBER_NONE;
    a->hold = HOLD_KEY;
    a->held_len = 0;
    a->value_begun = false;
    return 0;
}

static int rewrite_key_of_options(struct tb_rewrite *a, struct tb_buf *out)
{
    const char *key = a->scan.level[1].key;
    int r = a->hold == HOLD_OPTIONS ? rewrite_release(a, out) : 0;

    if (!a->options_open || a->scan.level[1].array)
        return r;
    if (!rewrite_first_time(a, key))
        return -EEXIST;
    if (strcmp(key, "include_usage") == 0) {
        a->usage_seen = true;
        a->hold = HOLD_USAGE;
        a->held_len = 0;
        a->value_begun = false;
    }
    return r;
}

static int rewrite_key_done(struct tb_rewrite *a, struct tb_buf *out)
{
    if (a->scan.depth == 2)
        return rewrite_key_of_options(a, out);
    memcpy(a->name, a->scan.level[0].key, sizeof(a->name));
    a->member = tb_api_member_of(a->api, a->name);
    if (a->member != TB_MEMBER_NONE && !rewrite_first_time(a, a->name))
        return -EEXIST;
    assert(a->member == TB_MEMBER_NONE ||
           a->hold == HOLD_KEY); /* its spelling cannot have filled what holds it */
    if (a->budgeted && (a->member == TB_MEMBER_LIMIT || a->member == TB_MEMBER_LIMIT_EXTRA)) {
        rewrite_drop(a);
        a->hold = HOLD_TO_END;
        return 0;
    }
    if (a->member == TB_MEMBER_STREAM_OPTIONS) {
        a->options_seen = true;
        a->hold = HOLD_OPTIONS;
        return 0;
    }
    return rewrite_release(a, out);
}

/* The value of include_usage. What no runtime takes for a boolean is left to it. */
static int rewrite_usage_done(struct tb_rewrite *a, enum tb_json_token t, struct tb_buf *out)
{
    bool wants = false;
    enum tb_coerced how = tb_coerce_bool(&a->scan, t, &wants);

    if (how == TB_COERCED_INVALID || wants) {
        a->wants_usage = wants;
        return rewrite_release(a, out);
    }
    rewrite_drop(a);
    a->injected = true;
    return rewrite_emit_string(a, out, ":true");
}

static int rewrite_value_done(struct tb_rewrite *a, enum tb_json_token t, struct tb_buf *out)
{
    rewrite_note_value(a, t);
    if (a->hold == HOLD_USAGE && a->scan.depth == 2)
        return rewrite_usage_done(a, t, out);
    if (a->options_open && a->scan.depth == 2 && strcmp(a->scan.level[1].key, "continuous_usage_stats") == 0)
        (void)tb_coerce_bool(&a->scan, t, &a->each_usage);
    if (a->hold != HOLD_OPTIONS)
        return 0;
    if (a->scan.depth == 1 && t == TB_JSON_DONE && strcmp(a->scan.value, "null") == 0) {
        a->options_null = true;
        rewrite_drop(a);
        return 0;
    }
    return rewrite_release(a, out); /* for the runtime to refuse */
}

static int rewrite_container_begins(struct tb_rewrite *a, struct tb_buf *out)
{
    rewrite_note_container(a);
    if (a->hold == HOLD_OPTIONS && a->scan.depth == 1) {
        a->options_open = true;
        return 0;
    }
    return a->hold == HOLD_OPTIONS || a->hold == HOLD_USAGE ? rewrite_release(a, out) : 0;
}

/* 1: the object's end is next. */
static int rewrite_container_ends(struct tb_rewrite *a, struct tb_buf *out)
{
    const struct tb_json_level *options = &a->scan.level[1];

    if (a->scan.depth == 2 && a->options_open) {
        a->options_open = false;
        if (a->hold == HOLD_OPTIONS && !options->array) { /* {}: some refuse any other without a stream */
            rewrite_drop(a);
            a->hold = HOLD_TO_END;
            a->options_empty = true;
            return 0;
        }
        if (a->hold == HOLD_OPTIONS)
            return rewrite_release(a, out);
        if (a->usage_seen || options->array)
            return 0;
        a->injected = true;
        return rewrite_emit_string(a, out,
                                   options->items > 0 ? ",\"include_usage\":true" : "\"include_usage\":true");
    }
    if (a->scan.depth > 1 || a->decided)
        return 0;
    if (a->scan.level[0].array) { /* no request */
        a->complete = false;
        return 0;
    }
    rewrite_drop(a);
    a->decided = a->complete = true;
    a->object = a->in;
    return 1;
}

static int rewrite_bad(struct tb_rewrite *a, struct tb_buf *out)
{
    a->complete = false;
    return a->hold != HOLD_NONE && a->held_len > 0 ? rewrite_release(a, out) : (rewrite_drop(a), 0);
}

static int rewrite_token(struct tb_rewrite *a, enum tb_json_token t, struct tb_buf *out)
{
    switch (t) {
    case TB_JSON_MEMBER:
        if (a->hold != HOLD_NONE)
            rewrite_drop(a);
        return rewrite_member_begins(a);
    case TB_JSON_KEY:
        return rewrite_key_done(a, out);
    case TB_JSON_DONE:
    case TB_JSON_TEXT:
        return rewrite_value_done(a, t, out);
    case TB_JSON_BEGIN:
        return rewrite_container_begins(a, out);
    case TB_JSON_END:
        return rewrite_container_ends(a, out);
    case TB_JSON_BAD:
        return rewrite_bad(a, out);
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
        int r;

        if (t == TB_JSON_BAD)
            r = rewrite_token(a, t, out); /* what is held goes before what was not understood */
        else
            r = 0;
        if (r >= 0)
            r = rewrite_take(a, p + *ret_used, used, out);
        *ret_used += used;
        a->in += used;
        if (r >= 0 && t != TB_JSON_BAD)
            r = rewrite_token(a, t, out);
        if (r != 0)
            return r;
    }
    return 0;
}

static int rewrite_close_member(struct tb_rewrite *a, struct tb_buf *out, const char *name, const char *value)
{
    char text[2 * TB_JSON_SCAN_VALUE + TB_JSON_SCAN_KEY];

    snprintf(text, sizeof(text), "%s\"%s\":%s", a->members_out ? "," : "", name, value);
    a->members_out = true;
    return rewrite_emit_string(a, out, text);
}

/* The limits that were taken out. With a cap only such stay as some runtime reads first and as are within
 * it. */
static int rewrite_close_limits(struct tb_rewrite *a, uint64_t cap, struct tb_buf *out)
{
    int r = 0;

    for (unsigned i = 0; i < a->n_limits && r >= 0; i++) {
        const struct tb_rewrite_limit *l = &a->limit[i];
        char value[sizeof(l->value)];

        if (cap > 0 && (!l->extra || l->number <= 0 || (uint64_t)l->number > cap))
            continue;
        if (l->string) /* a limit for some runtimes, none for others (llama-server) */
            snprintf(value, sizeof(value), "%lld", (long long)l->number);
        else
            memcpy(value, l->value, sizeof(value));
        r = rewrite_close_member(a, out, l->name, value);
    }
    return r;
}

/* "0 tokens" is not to become more than one because a limit has to be written. */
static uint64_t rewrite_lower_cap(const struct tb_rewrite *a, uint64_t cap)
{
    bool zero = false, more = false;

    for (unsigned i = 0; i < a->n_limits; i++) {
        zero |= !a->limit[i].extra && a->limit[i].number == 0;
        more |= !a->limit[i].extra && a->limit[i].number > 0;
    }
    return zero && !more ? MIN(cap, 1) : cap;
}

int tb_rewrite_close(struct tb_rewrite *a, uint64_t cap, struct tb_buf *out)
{
    bool inject =
        rewrite_may_inject(a) && a->stream && (!a->options_seen || a->options_null || a->options_empty);
    char value[24];
    int r = 0;

    assert(a->decided && (cap == 0 || a->budgeted));
    a->injected |= inject;
    if (inject)
        r = rewrite_close_member(a, out, "stream_options", "{\"include_usage\":true}");
    else if (a->options_null || a->options_empty)
        r = rewrite_close_member(a, out, "stream_options", a->options_null ? "null" : "{}");
    if (r >= 0 && a->budgeted)
        r = rewrite_close_limits(a, cap, out);
    if (r < 0 || cap == 0)
        return r;
    snprintf(value, sizeof(value), "%llu", (unsigned long long)rewrite_lower_cap(a, cap));
    return rewrite_close_member(a, out, tb_api_limit_name(a->api), value);
}

int tb_rewrite_end(struct tb_rewrite *a, bool pad, struct tb_buf *out)
{
    static const char blanks[] = "                                ";
    uint64_t want = a->in + TB_REWRITE_GROWTH;
    int r = a->hold != HOLD_NONE ? rewrite_release(a, out) : 0;

    assert(a->out <= want);
    while (pad && r >= 0 && a->out < want)
        r = rewrite_emit(a, out, blanks, MIN(want - a->out, sizeof(blanks) - 1));
    return r;
}

static bool rewrite_has_messages(const struct tb_rewrite *a)
{
    for (size_t i = 0; i < ARRAY_SIZE(deciding); i++)
        if (strcmp(deciding[i], "messages") == 0)
            return a->seen & 1ULL << i;
    return false;
}

/* A template makes the prompt of it, and has something to make it of. */
static bool rewrite_is_conversation(const struct tb_rewrite *a)
{
    return a->prompt.text > 0 && (rewrite_has_messages(a) || a->api == TB_API_RESPONSE) &&
           tb_api_generates(a->api);
}

/* A plain prompt has none. */
static uint64_t rewrite_templates(const struct tb_rewrite *a)
{
    if (a->api == TB_API_COMPLETION && !rewrite_has_messages(a))
        return 0;
    return tb_prompt_templates(&a->prompt, a->api);
}

/* previous: tokens of the response that it continues; UINT64_MAX: not known. */
static uint64_t rewrite_prompt_most(const struct tb_rewrite *a, uint64_t previous)
{
    uint64_t here = tb_prompt_most(&a->prompt, a->api, a->decided ? a->object : a->in);

    if (!a->prompt.continues || here == UINT64_MAX)
        return here;
    return previous > TB_COST_MAX ? UINT64_MAX : here + previous;
}

void tb_rewrite_size(const struct tb_rewrite *a, uint64_t previous, struct tb_request_size *ret)
{
    uint64_t prompts = MAX(a->prompt.n, 1), choices = MAX(a->choices, 1);
    bool limited = false, unlimited = false;

    for (unsigned i = 0; i < a->n_limits; i++) {
        limited |= !a->limit[i].extra && a->limit[i].number > 0;
        unlimited |= !a->limit[i].null && a->limit[i].number < 0;
    }
    *ret = (struct tb_request_size){
        .prompt_likely = tb_prompt_likely(&a->prompt, a->api) +
                         (a->prompt.continues && previous <= TB_COST_MAX ? previous : 0),
        .prompt_most = rewrite_prompt_most(a, previous),
        .templates = rewrite_templates(a),
        .conversation = rewrite_is_conversation(a),
        .usual = !a->prompt.unusual,
        .prompts = prompts,
        .max_tokens = a->max_tokens,
        .open = !limited || unlimited,
        .may_cap = a->budgeted,
    };
    if (tb_api_generates(a->api))
        ret->completions = prompts > UINT32_MAX || choices > UINT32_MAX ? UINT64_MAX : prompts * choices;
}
