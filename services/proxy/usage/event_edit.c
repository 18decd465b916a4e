/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/usage/event_edit.h"

#include <string.h>

#include "proxy/usage/json_scan.h"

/* The JSON of an event whose data is one line. False when it is more or less. */
static bool edit_json(const struct tb_buf *event, size_t *ret_at, size_t *ret_len)
{
    bool found = false;
    /* A byte order mark stands before the first event of a stream. */
    size_t begin = event->len >= 3 && memcmp(event->data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;

    for (size_t at = begin; at < event->len;) {
        size_t end = at;

        while (end < event->len && event->data[end] != '\n' && event->data[end] != '\r')
            end++;
        if (end - at > 5 && memcmp(event->data + at, "data:", 5) == 0) {
            if (found)
                return false;
            found = true;
            *ret_at = at + 5;
            *ret_len = end - at - 5;
        }
        at = end + 1;
    }
    return found;
}

static bool edit_is_usual(const char *key)
{
    static const char *const usual[] = {
        "id", "object", "created", "model", "usage", "choices", "system_fingerprint", "service_tier"};

    for (size_t i = 0; i < ARRAY_SIZE(usual); i++)
        if (strcmp(usual[i], key) == 0)
            return true;
    return false;
}

/* Walks the members of the outermost object. each: a member's key and text without its comma; not 0 ends
 * the walk and is returned. */
struct event_walk {
    int (*each)(void *arg, const char *key, const char *text, size_t len);
    void *arg;
    size_t close; /* where the object's bracket is; 0: no object that ends */
};

static int edit_walk(const char *json, size_t len, struct event_walk *w)
{
    struct tb_json_scan s = {0};
    char key[TB_JSON_SCAN_KEY + 1] = "";
    size_t at = 0, begin = 0;
    int r = 0;

    w->close = 0;
    while (at < len && r == 0 && !s.bad) {
        enum tb_json_token t;

        at += tb_json_scan(&s, json + at, len - at, &t);
        if (t == TB_JSON_MEMBER || (t == TB_JSON_END && s.depth == 1 && !s.level[0].array)) {
            if (begin > 0)
                r = w->each(w->arg, key, json + begin, at - begin);
            begin = json[at] == ',' ? at + 1 : at;
            if (t == TB_JSON_END)
                w->close = at;
        } else if (t == TB_JSON_KEY && s.depth == 1) {
            memcpy(key, s.level[0].key, sizeof(key));
        }
    }
    if (s.bad)
        w->close = 0;
    return r;
}

static int edit_take_extra(void *arg, const char *key, const char *text, size_t len)
{
    struct tb_buf *b = arg;
    int r;

    if (edit_is_usual(key))
        return 0;
    r = tb_buf_append(b, ",", 1);
    return r < 0 ? r : tb_buf_append(b, text, len);
}

int tb_event_extras(const struct tb_buf *event, struct tb_buf *ret)
{
    struct event_walk w = {.each = edit_take_extra, .arg = ret};
    size_t at, len;

    return edit_json(event, &at, &len) ? edit_walk(event->data + at, len, &w) : 0;
}

static int edit_find_extra(void *arg, const char *key, const char *text, size_t len)
{
    return !edit_is_usual(key);
}

int tb_event_splice(const struct tb_buf *event, const struct tb_buf *extras, struct tb_buf *out)
{
    struct event_walk w = {.each = edit_find_extra};
    size_t at = 0, len;
    int r;

    if (extras->len == 0 || !edit_json(event, &at, &len) || edit_walk(event->data + at, len, &w) != 0 ||
        w.close == 0)
        return tb_buf_append(out, event->data, event->len);
    at += w.close;
    r = tb_buf_append(out, event->data, at);
    if (r >= 0)
        r = tb_buf_append(out, extras->data, extras->len);
    return r < 0 ? r : tb_buf_append(out, event->data + at, event->len - at);
}

/* Where a member is, with one of its commas. */
struct event_cut {
    const char *key, *from, *to;
    const char *json, *end;
};

static int edit_find_member(void *arg, const char *key, const char *text, size_t len)
{
    struct event_cut *c = arg;

    if (strcmp(c->key, key) != 0)
        return 0;
    c->from = text;
    c->to = text + len;
    if (text > c->json && text[-1] == ',')
        c->from--;
    else if (c->to < c->end && *c->to == ',')
        c->to++;
    return 1;
}

int tb_event_without(const struct tb_buf *event, const char *key, struct tb_buf *out)
{
    struct event_cut c = {.key = key};
    struct event_walk w = {.each = edit_find_member, .arg = &c};
    size_t at, len;

    if (edit_json(event, &at, &len)) {
        c.json = event->data + at;
        c.end = c.json + len;
        if (edit_walk(c.json, len, &w) == 1) {
            (void)tb_buf_append(out, event->data, (size_t)(c.from - event->data));
            return tb_buf_append(out, c.to, (size_t)(event->data + event->len - c.to));
        }
    }
    return tb_buf_append(out, event->data, event->len);
}
