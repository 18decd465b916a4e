/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/s3_request.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "common/hex.h"
#include "common/macros.h"
#include "common/text.h"

struct s3_span {
    const char *p;
    size_t n;
};

static bool span_is(struct s3_span s, const char *word)
{
    return s.n == strlen(word) && memcmp(s.p, word, s.n) == 0;
}

static bool span_is_any_case(struct s3_span s, const char *word)
{
    return s.n == strlen(word) && strncasecmp(s.p, word, s.n) == 0;
}

static bool span_begins(struct s3_span s, const char *word)
{
    return s.n >= strlen(word) && strncasecmp(s.p, word, strlen(word)) == 0;
}

/* What is before the mark; the rest stays in s. All of it when there is none. */
static struct s3_span span_cut(struct s3_span *s, char mark)
{
    const char *at = s->n > 0 ? memchr(s->p, mark, s->n) : NULL;
    struct s3_span head = {s->p, at ? (size_t)(at - s->p) : s->n};

    s->p += head.n + (at ? 1 : 0);
    s->n -= head.n + (at ? 1 : 0);
    return head;
}

static struct s3_span span_trim(struct s3_span s)
{
    while (s.n > 0 && (*s.p == ' ' || *s.p == '\t'))
        s.p++, s.n--;
    while (s.n > 0 && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

/* Digits alone; what is larger than it can hold is as large as it can be. */
static bool span_uint(struct s3_span s, uint64_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] < '0' || s.p[i] > '9')
            return false;
        if (__builtin_mul_overflow(*ret, 10U, ret) || __builtin_add_overflow(*ret, s.p[i] - '0', ret))
            *ret = UINT64_MAX;
    }
    return s.n > 0;
}

/* -- strings --------------------------------------------------------------------------------------------- */
static const char *request_keep(struct s3_request *q, const char *p, size_t n)
{
    char *out = q->text + q->used;

    if (n >= sizeof(q->text) - q->used)
        return NULL;
    memcpy(out, p, n);
    out[n] = '\0';
    q->used += n + 1;
    return out;
}

/* UTF-8 without control characters: what an XML document can hold, and a key of ours is. */
static bool text_is_plain(const char *s)
{
    while (*s) {
        size_t n = tb_utf8_char(s, NULL);

        if (n == 0 || (unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
        s += n;
    }
    return true;
}

/* NULL: not decoded. */
static const char *text_decode(struct s3_request *q, struct s3_span s, bool query)
{
    char *out = q->text + q->used;
    size_t n = 0;

    if (s.n >= sizeof(q->text) - q->used)
        return NULL;
    for (size_t i = 0; i < s.n; i++) {
        char c = query && s.p[i] == '+' ? ' ' : s.p[i];

        if (c == '%') {
            int hi = i + 2 < s.n ? tb_hex_digit(s.p[i + 1]) : -1, lo = hi < 0 ? -1 : tb_hex_digit(s.p[i + 2]);

            if (lo < 0)
                return NULL;
            c = (char)(hi << 4 | lo);
            i += 2;
        }
        if (c == '\0')
            return NULL;
        out[n++] = c;
    }
    out[n] = '\0';
    q->used += n + 1;
    return text_is_plain(out) ? out : NULL;
}

/* -- the address ----------------------------------------------------------------------------------------- */
static bool query_is_ignored(struct s3_span name)
{
    return span_is(name, "x-id") || span_is(name, "fetch-owner") || span_is(name, "metadata") ||
           span_begins(name, "x-amz-");
}

/* The token is the name behind which the list goes on, in hex. */
static enum s3_error query_token(struct s3_request *q)
{
    size_t n = strlen(q->token);
    char *out = q->text + q->used;

    if (n % 2 != 0 || n / 2 >= sizeof(q->text) - q->used)
        return S3_BAD_ARGUMENT;
    if (tb_hex_decode(q->token, n, (uint8_t *)out, n / 2) < 0)
        return S3_BAD_ARGUMENT;
    out[n / 2] = '\0';
    q->used += n / 2 + 1;
    q->after = out;
    return strlen(out) == n / 2 && text_is_plain(out) ? S3_OK : S3_BAD_ARGUMENT;
}

/* No file was uploaded in parts, so it is its own first one. */
static enum s3_error query_part(struct s3_request *q, const char *value)
{
    uint64_t n;

    if (!span_uint((struct s3_span){value, strlen(value)}, &n) || n == 0 || n > S3_PARTS_MAX ||
        q->range != S3_RANGE_NONE)
        return S3_BAD_ARGUMENT;
    q->first_part = true;
    q->range = S3_RANGE_FROM;
    q->to = UINT64_MAX;
    return n == 1 ? S3_OK : S3_BAD_PART;
}

static enum s3_error query_take(struct s3_request *q, struct s3_span name, const char *value,
                                const char **ret_marker)
{
    uint64_t n;

    if (span_is(name, "prefix"))
        q->prefix = value;
    else if (span_is(name, "delimiter"))
        q->delimiter = value;
    else if (span_is(name, "start-after"))
        q->start_after = value;
    else if (span_is(name, "continuation-token"))
        q->token = value;
    else if (span_is(name, "marker"))
        *ret_marker = value;
    else if (span_is(name, "partNumber"))
        return query_part(q, value);
    else if (span_is(name, "location"))
        q->location = true;
    else if (span_is(name, "list-type") && strcmp(value, "2") == 0)
        q->list_v2 = true;
    else if (span_is(name, "encoding-type") && strcmp(value, "url") == 0)
        q->encode = true;
    else if (span_is(name, "max-keys") && span_uint((struct s3_span){value, strlen(value)}, &n))
        q->max_keys = (unsigned)MIN(n, (uint64_t)S3_KEYS_MAX);
    else if (span_is(name, "list-type") || span_is(name, "encoding-type") || span_is(name, "max-keys"))
        return S3_BAD_ARGUMENT;
    else if (!query_is_ignored(name))
        return S3_NOT_IMPLEMENTED;
    return S3_OK;
}

static bool query_named_before(struct s3_span all, struct s3_span name)
{
    while (all.p < name.p) {
        struct s3_span pair = span_cut(&all, '&'), n = span_cut(&pair, '=');

        if (n.p < name.p && n.n == name.n && memcmp(n.p, name.p, n.n) == 0)
            return true;
    }
    return false;
}

static enum s3_error query_parse(struct s3_request *q, struct s3_span query)
{
    struct s3_span rest = query;
    const char *marker = NULL;

    while (rest.n > 0) {
        struct s3_span pair = span_cut(&rest, '&'), name = span_cut(&pair, '=');
        const char *value = text_decode(q, pair, true);
        enum s3_error e;

        if (name.n == 0 && pair.n == 0)
            continue;
        if (!value || query_named_before(query, name))
            return S3_BAD_ARGUMENT;
        e = query_take(q, name, value, &marker);
        if (e != S3_OK)
            return e;
    }
    if (q->list_v2 && q->token)
        return query_token(q);
    q->after = q->list_v2 ? q->start_after : marker;
    return S3_OK;
}

static enum s3_error target_parse(struct s3_request *q, struct s3_span target)
{
    struct s3_span path = span_cut(&target, '?'), bucket;
    bool slash;

    if (path.n == 0 || *path.p != '/')
        return S3_BAD_REQUEST;
    path.p++, path.n--;
    slash = memchr(path.p, '/', path.n);
    bucket = span_cut(&path, '/');
    q->bucket = text_decode(q, bucket, false);
    if (slash && path.n > 0) {
        q->key = text_decode(q, path, false);
        if (!q->key)
            return S3_BAD_REQUEST;
    }
    return q->bucket ? query_parse(q, target) : S3_BAD_REQUEST;
}

/* -- headers --------------------------------------------------------------------------------------------- */
/* What is none is as if it had not been there (RFC 9110, 14.2), and so is more than one. */
static void header_range(struct s3_request *q, struct s3_span v)
{
    struct s3_span first;
    bool open;

    if (!span_begins(v, "bytes=") || memchr(v.p, ',', v.n))
        return;
    v = span_trim((struct s3_span){v.p + 6, v.n - 6});
    if (v.n == 0 || !memchr(v.p, '-', v.n))
        return;
    first = span_cut(&v, '-');
    if (first.n == 0) {
        q->range = span_uint(v, &q->to) ? S3_RANGE_LAST : S3_RANGE_NONE;
        return;
    }
    open = v.n == 0;
    if (!span_uint(first, &q->from) || (!open && !span_uint(v, &q->to)) || (!open && q->to < q->from))
        return;
    if (open)
        q->to = UINT64_MAX;
    q->range = S3_RANGE_FROM;
}

static void header_connection(struct s3_request *q, struct s3_span v)
{
    while (v.n > 0) {
        struct s3_span word = span_trim(span_cut(&v, ','));

        q->close |= span_is_any_case(word, "close");
    }
}

enum { HEADER_HOST, HEADER_LENGTH, HEADER_RANGE, HEADER_MATCH, HEADER_NONE_MATCH, HEADER_IF_RANGE, HEADERS };

static enum s3_error header_take(struct s3_request *q, struct s3_span name, struct s3_span v, unsigned *seen)
{
    static const char *const names[HEADERS] = {"host",     "content-length", "range",
                                               "if-match", "if-none-match",  "if-range"};
    const char **const texts[HEADERS] = {[HEADER_MATCH] = &q->if_match,
                                         [HEADER_NONE_MATCH] = &q->if_none_match,
                                         [HEADER_IF_RANGE] = &q->if_range};
    uint64_t n;

    if (span_is_any_case(name, "connection"))
        header_connection(q, v);
    if (span_is_any_case(name, "transfer-encoding"))
        return S3_BAD_REQUEST;
    for (unsigned i = 0; i < HEADERS; i++) {
        if (!span_is_any_case(name, names[i]))
            continue;
        if (*seen & 1U << i)
            return S3_BAD_REQUEST;
        *seen |= 1U << i;
        if (i == HEADER_LENGTH && (!span_uint(v, &n) || n != 0))
            return S3_BAD_REQUEST; /* nothing that is answered here has a body */
        if (i == HEADER_RANGE)
            header_range(q, v);
        if (texts[i]) {
            *texts[i] = request_keep(q, v.p, v.n);
            if (!*texts[i])
                return S3_HEAD_TOO_LARGE;
        }
    }
    return S3_OK;
}

static bool header_is_token(struct s3_span s)
{
    static const char also[] = "!#$%&'*+-.^_`|~";

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];

        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
              (c && strchr(also, c))))
            return false;
    }
    return s.n > 0;
}

/* A line without its end, which is taken away. false: there is a control character in it. */
static bool head_line(struct s3_span *head, struct s3_span *ret)
{
    *ret = span_cut(head, '\n');
    if (ret->n == 0 || ret->p[ret->n - 1] != '\r')
        return false;
    ret->n--;
    for (size_t i = 0; i < ret->n; i++)
        if (((unsigned char)ret->p[i] < 0x20 && ret->p[i] != '\t') || ret->p[i] == 0x7f)
            return false;
    return true;
}

static enum s3_error head_parse(struct s3_request *q, struct s3_span head)
{
    struct s3_span line, method, target, name;
    enum s3_error e = S3_OK;
    unsigned seen = 0;

    if (!head_line(&head, &line))
        return S3_BAD_REQUEST;
    method = span_cut(&line, ' ');
    target = span_cut(&line, ' ');
    if (!header_is_token(method) || target.n == 0 || !span_begins(line, "HTTP/") ||
        memchr(target.p, '\t', target.n))
        return S3_BAD_REQUEST;
    if (!span_is(line, "HTTP/1.1") && !span_is(line, "HTTP/1.0"))
        return S3_BAD_VERSION;
    q->close = span_is(line, "HTTP/1.0");
    q->head = span_is(method, "HEAD");
    if (!q->head && !span_is(method, "GET"))
        return S3_BAD_METHOD;
    while (e == S3_OK && head.n > 2) {
        if (!head_line(&head, &line))
            return S3_BAD_REQUEST;
        name = span_cut(&line, ':');
        if (!header_is_token(name) || line.p == name.p + name.n)
            return S3_BAD_REQUEST;
        e = header_take(q, name, span_trim(line), &seen);
    }
    if (e == S3_OK && !(seen & 1U << HEADER_HOST) && !q->close)
        return S3_BAD_REQUEST;
    return e == S3_OK ? target_parse(q, target) : e;
}

int s3_request_parse(const char *buf, size_t len, size_t *ret_len, struct s3_request *ret,
                     enum s3_error *ret_error)
{
    const char *end = len > 0 ? memmem(buf, MIN(len, (size_t)S3_HEAD_MAX), "\r\n\r\n", 4) : NULL;

    if (!end && len < S3_HEAD_MAX)
        return -EAGAIN;
    ret->used = 0;
    memset(ret, 0, offsetof(struct s3_request, text));
    ret->max_keys = S3_KEYS_MAX;
    *ret_len = end ? (size_t)(end - buf) + 4 : len;
    *ret_error = end ? head_parse(ret, (struct s3_span){buf, *ret_len}) : S3_HEAD_TOO_LARGE;
    ret->close |= *ret_error != S3_OK;
    ret->prefix = ret->prefix ? ret->prefix : "";
    ret->delimiter = ret->delimiter ? ret->delimiter : "";
    ret->after = ret->after ? ret->after : "";
    return 0;
}

bool s3_request_names(const char *tags, const char *tag)
{
    struct s3_span rest = {tags, strlen(tags)};

    while (rest.n > 0) {
        struct s3_span one = span_trim(span_cut(&rest, ','));

        if (span_is(one, "*"))
            return true;
        if (one.n >= 2 && *one.p == '"' && one.p[one.n - 1] == '"')
            one = (struct s3_span){one.p + 1, one.n - 2}; /* some clients send it without quotes */
        if (span_is(one, tag))
            return true;
    }
    return false;
}
