/* SPDX-License-Identifier: Apache-2.0 */
#include "support/redact.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "common/secret.h"
#include "support/unescape.h"
#include "support/words.h"

/* Around the number of a known value, while its line is looked at. */
#define MARK '\1'
#define MARK_END '\2'
#define SHORT 6         /* a known value shorter than this counts only as a word of its own */
#define BASE64_FROM 8   /* a known secret is looked for as base64 too when its bytes are at least this many */
#define BASE64_UNTIL 48 /* longer ones show as base64 by their looks */

void redactor_clear(struct redactor *r)
{
    for (size_t i = 0; i < r->n; i++)
        tb_erase_string(r->v[i].text);
    free(r->v);
    *r = (struct redactor){0};
}

/* Where values that begin as p does are, p having at least that many bytes. */
static uint32_t *redactor_bucket(struct redactor *r, const char *p, bool longer)
{
    uint32_t h = 2166136261U;

    for (int i = 0; i < (longer ? 4 : 2); i++)
        h = (h ^ (uint32_t)tolower((unsigned char)p[i])) * 16777619U;
    return &r->bucket[longer][(h ^ h >> 15) & (REDACT_BUCKETS - 1)];
}

/* Of at least two bytes. */
static struct redact_value *redactor_find(struct redactor *r, const char *text, size_t len)
{
    for (uint32_t i = *redactor_bucket(r, text, len >= 4); i > 0; i = r->v[i - 1].next)
        if (r->v[i - 1].len == len && strncasecmp(r->v[i - 1].text, text, len) == 0)
            return &r->v[i - 1];
    return NULL;
}

static int redactor_add(struct redactor *r, const char *text, size_t len, enum redact_class class,
                        struct redact_value **ret)
{
    uint32_t *bucket = redactor_bucket(r, text, len >= 4);
    struct redact_value *v = r->v;

    if (r->n == REDACT_VALUES_MAX)
        return -ENOSPC;
    if (r->n == r->n_allocated) {
        v = reallocarray(r->v, MAX(2 * r->n, 256U), sizeof(*v));
        if (!v)
            return -ENOMEM;
        r->v = v;
        r->n_allocated = MAX(2 * r->n, 256U);
    }
    v += r->n;
    *v = (struct redact_value){.text = strndup(text, len), .len = len, .class = class, .next = *bucket};
    if (!v->text)
        return -ENOMEM;
    if (class != REDACT_SECRET)
        v->number = ++r->last[class];
    *bucket = (uint32_t)++r->n;
    *ret = v;
    return 0;
}

/* Words of every text, and what many machines are called: as a value they would leave nothing of it. */
static bool redactor_says_nothing(const char *text, size_t len)
{
    static const char *const words[] = {"true", "false", "yes",    "no",     "on",          "off",
                                        "none", "info",  "debug",  "null",   "trustbridge", "systemd",
                                        "root", "linux", "debian", "ubuntu", "azure"};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (len == strlen(words[i]) && strncasecmp(text, words[i], len) == 0)
            return true;
    return len < 2 || word_is_local(text, len);
}

static int redactor_know_one(struct redactor *r, const char *text, size_t len, enum redact_class class)
{
    struct redact_value *v;

    if (redactor_says_nothing(text, len) || (v = redactor_find(r, text, len)))
        return 0;
    return redactor_add(r, text, len, class, &v);
}

int redactor_know(struct redactor *r, const char *text, size_t len, enum redact_class class)
{
    _cleanup_buf_ struct tb_buf other = {.secret = true};
    int e = redactor_know_one(r, text, len, class);

    /* A line is judged without its escapes, so a value that looks escaped must be known without, too. */
    if (e == 0 && unescape_line(text, len, &other))
        e = tb_buf_error(&other) ? tb_buf_error(&other) : redactor_know_one(r, other.data, other.len, class);
    if (class != REDACT_SECRET || len < BASE64_FROM || len >= BASE64_UNTIL)
        return e;
    for (unsigned shift = 0; e == 0 && shift < 3; shift++) {
        e = unescape_base64_of(text, len, shift, &other);
        if (e == 0)
            e = redactor_know_one(r, other.data, other.len, class);
    }
    return e;
}

void redactor_ready(struct redactor *r)
{
    r->n_known = r->n;
}

static bool redact_keeps(const struct redactor *r, enum redact_class class)
{
    return class == REDACT_NOTHING || (class == REDACT_ID && r->keep_ids) ||
           (class == REDACT_ADDRESS && r->keep_addresses);
}

static void redact_name(const struct redact_value *v, enum redact_class class, struct tb_buf *out)
{
    static const char *const name[] = {"", "secret", "id", "address"};

    if (v && v->number > 0)
        tb_buf_printf(out, "<%s-%u>", name[class], v->number);
    else
        tb_buf_printf(out, "<%s>", name[class]);
}

/* In place of a value that was found by its looks. */
static void redact_found(struct redactor *r, const char *text, size_t len, enum redact_class class,
                         struct tb_buf *out)
{
    struct redact_value *v = class == REDACT_SECRET || len < 2 ? NULL : redactor_find(r, text, len);

    if (redact_keeps(r, class) || (len > 2 && text[0] == MARK && text[len - 1] == MARK_END)) {
        tb_buf_append(out, text, len);
        return;
    }
    if (!v && class != REDACT_SECRET && len >= 2 && redactor_add(r, text, len, class, &v) < 0)
        v = NULL;
    redact_name(v, class, out);
}

static bool redact_is_word(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-';
}

static bool redact_is_alnum(char c)
{
    return isalnum((unsigned char)c);
}

/* Is v at p, a place in [begin, end)? */
static bool redact_is_at(const struct redact_value *v, const char *begin, const char *p, const char *end)
{
    bool (*in_word)(char) = v->class == REDACT_ADDRESS ? redact_is_word : redact_is_alnum;

    if ((size_t)(end - p) < v->len || strncasecmp(p, v->text, v->len) != 0)
        return false;
    if (v->len >= SHORT && v->class != REDACT_ADDRESS)
        return true;
    return (p == begin || !in_word(p[-1])) && (p + v->len == end || !in_word(p[v->len]));
}

/* The longest known value that is at p. */
static const struct redact_value *redact_known_at(struct redactor *r, const char *begin, const char *p,
                                                  const char *end)
{
    const struct redact_value *best = NULL;

    for (int longer = 0; longer < 2 && end - p >= (longer ? 4 : 2); longer++)
        for (uint32_t i = *redactor_bucket(r, p, longer); i > 0; i = r->v[i - 1].next)
            if (i <= r->n_known && (!best || r->v[i - 1].len > best->len) &&
                redact_is_at(&r->v[i - 1], begin, p, end))
                best = &r->v[i - 1];
    return best;
}

/* -- by looks -------------------------------------------------------------------------------------------- */

static bool redact_in_run(char c)
{
    return isalnum((unsigned char)c) || (c != '\0' && strchr("._~+/=%@:-", c)) || (c & 0x80) || c == MARK ||
           c == MARK_END;
}

/* What a run of characters is, whole or in its parts: "host:8000", "(10.0.0.1)", "a/b". */
static void redact_run(struct redactor *r, const char *s, size_t len, struct tb_buf *out)
{
    static const char *const cuts = ":/=@%~";
    enum redact_class class;
    size_t n = len, cut;

    /* Punctuation at its end is not of it. */
    while (n > 1 && strchr(".:=-", s[n - 1]) && !(n > 2 && s[n - 1] == ':' && s[n - 2] == ':'))
        n--;
    class = word_class(s, n);
    if (class != REDACT_NOTHING) {
        redact_found(r, s, n, class, out);
        tb_buf_append(out, s + n, len - n);
        return;
    }
    for (cut = 0; cut < len && !strchr(cuts, s[cut]); cut++)
        ;
    if (cut == len) {
        tb_buf_append(out, s, len);
        return;
    }
    if (cut > 0)
        redact_run(r, s, cut, out);
    tb_buf_append(out, s + cut, 1);
    if (cut + 1 < len)
        redact_run(r, s + cut + 1, len - cut - 1, out);
}

/* Behind "scheme://": who and where, the way, and neither query nor fragment. Returns where it ends. */
static const char *redact_url(struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    const char *stop = p, *at, *host_end, *port;

    while (stop < end && !isspace((unsigned char)*stop) && !strchr("\"'<>`|\\^{}", *stop))
        stop++;
    /* What a URL should not have is in a query all the same. */
    if (memchr(p, '?', (size_t)(stop - p)))
        while (stop < end && !isspace((unsigned char)*stop) && !strchr("\"<>`", *stop))
            stop++;
    host_end = p;
    while (host_end < stop && !strchr("/?#,;)", *host_end))
        host_end++;
    at = memrchr(p, '@', (size_t)(host_end - p));
    if (at) {
        tb_buf_puts(out, "<secret>@");
        p = at + 1;
    }
    port = p < host_end && *p == '[' ? memchr(p, ']', (size_t)(host_end - p))
                                     : memchr(p, ':', (size_t)(host_end - p));
    if (port && *port == ']')
        port++;
    if (!port)
        port = host_end;
    if (port > p && !word_is_local(p, (size_t)(port - p)))
        redact_found(r, p, (size_t)(port - p), REDACT_ADDRESS, out);
    else
        tb_buf_append(out, p, (size_t)(port - p));
    tb_buf_append(out, port, (size_t)(host_end - port));
    for (p = host_end; p < stop && *p != '?' && *p != '#'; p++)
        ;
    if (p > host_end)
        redact_run(r, host_end, (size_t)(p - host_end), out);
    if (p < stop)
        tb_buf_puts(out, "?<secret>");
    return stop;
}

/* A quote, or one that is escaped, as in JSON within JSON. Its bytes, or 0. */
static size_t redact_quote(const char *p, const char *end)
{
    size_t n = 0;

    while (p + n < end && p[n] == '\\')
        n++;
    return p + n < end && (p[n] == '"' || p[n] == '\'') ? n + 1 : 0;
}

/* "Bearer", "Basic": what follows is a secret whoever wrote it. */
static bool redact_is_scheme(const char *word, size_t len)
{
    return (len == 6 && strncasecmp(word, "bearer", 6) == 0) ||
           (len == 5 && strncasecmp(word, "basic", 5) == 0) ||
           (len == 21 && strncasecmp(word, "sharedaccesssignature", 21) == 0);
}

/* The value of something that names a secret, from p on, behind a separator: up to where a value ends. */
static const char *redact_value_of(const char *p, const char *end, bool to_line_end, struct tb_buf *out)
{
    const char *stops = p[-1] == '>' && p[-2] != '=' ? "<" : " \t,;&\"'}])";
    size_t quote = redact_quote(p, end);
    const char *open = p, *from = p + quote;

    tb_buf_append(out, open, quote);
    p = from;
    if (quote) {
        while (p < end && ((size_t)(end - p) < quote || memcmp(p, open, quote) != 0))
            p += quote == 1 && *p == '\\' && p + 1 < end ? 2 : 1;
        p = MIN(p, end);
    } else {
        while (p < end && (to_line_end || !strchr(stops, *p)))
            p++;
        /* "authorization = Bearer VALUE" */
        if (p < end && *p == ' ' && redact_is_scheme(from, (size_t)(p - from)))
            for (p++; p < end && !strchr(stops, *p);)
                p++;
    }
    if (p > from)
        tb_buf_puts(out, "<secret>");
    return p;
}

/* Blanks, and what opens a list: ["VALUE"]. */
static const char *redact_skip_blanks(const char *p, const char *end, const char *more)
{
    while (p < end && (*p == ' ' || *p == '\t' || (*p != '\0' && strchr(more, *p))))
        p++;
    return p;
}

/* Behind a word: is a value of it next, and where? NULL: no. */
static const char *redact_separator(const char *word, const char *p, const char *end, bool *ret_header)
{
    size_t quote = redact_quote(p, end); /* the end of a quoted name */
    const char *q = redact_skip_blanks(p + quote, end, "");

    *ret_header = false;
    if (q == end)
        return NULL;
    if (*q == '=' || *q == ':') {
        *ret_header = *q == ':' && q == p;
        q += q + 1 < end && q[0] == '=' && q[1] == '>' ? 2 : 1;
        return redact_skip_blanks(q, end, *ret_header ? "" : "[(");
    }
    /* <token>VALUE< */
    if (*q == '>' && q == p)
        return q + 1;
    /* "--api-key", "VALUE" and '--api-key' 'VALUE' */
    if (quote > 0) {
        const char *next = redact_skip_blanks(q, end, ",");

        return next > p + quote && redact_quote(next, end) > 0 ? next : NULL;
    }
    /* --api-key VALUE */
    return word[0] == '-' && word[1] == '-' && q > p && *q != '-' ? q : NULL;
}

/* The name of a file is no secret: TB_TLS_KEY=/run/credentials/... But base64 may begin with a slash, too. */
static bool redact_is_path(const char *p, const char *end)
{
    static const char *const tops[] = {"bin/", "data/",   "dev/", "etc/",  "home/", "lib/", "media/",
                                       "mnt/", "models/", "opt/", "proc/", "root/", "run/", "sbin/",
                                       "srv/", "sys/",    "tmp/", "usr/",  "var/"};

    for (size_t i = 0; i < ARRAY_SIZE(tops); i++)
        if ((size_t)(end - p) > strlen(tops[i]) && p[0] == '/' &&
            strncmp(p + 1, tops[i], strlen(tops[i])) == 0)
            return true;
    return false;
}

/* A word that says what follows. Returns where the value ends, or NULL. */
static const char *redact_named(const char *word, const char *p, const char *end, struct tb_buf *out)
{
    size_t dashes = strspn(word, "-");
    const char *value;
    bool header;

    if ((size_t)(p - word) <= dashes)
        return NULL;
    if (redact_is_scheme(word, (size_t)(p - word)) && p < end && *p == ' ' && p + 8 < end) {
        tb_buf_append(out, word, (size_t)(p - word) + 1);
        return redact_value_of(p + 1, end, false, out);
    }
    if (!word_names_secret(word + dashes, (size_t)(p - word) - dashes))
        return NULL;
    value = redact_separator(word, p, end, &header);
    if (!value || value == end)
        return NULL;
    if (redact_is_path(value, end))
        return NULL;
    tb_buf_append(out, word, (size_t)(value - word));
    return redact_value_of(value, end, header && *value != '"', out);
}

/* The scheme's "://" behind a run of letters. */
static bool redact_is_url(const char *word, const char *p, const char *end)
{
    return p > word && end - p > 3 && memcmp(p, "://", 3) == 0;
}

static const char *redact_word(struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    const char *word = p, *next;

    while (p < end && redact_is_word(*p))
        p++;
    if (redact_is_url(word, p, end)) {
        tb_buf_append(out, word, (size_t)(p - word) + 3);
        return redact_url(r, p + 3, end, out);
    }
    if (p > word && (next = redact_named(word, p, end, out)))
        return next;
    for (p = word; p < end && redact_in_run(*p); p++)
        if (redact_is_url(word, p, end))
            break;
    /* The name of a secret may stand behind another cut: "TB_X=1,api_key=..." */
    for (const char *q = word; q < p; q++)
        if (q > word && !redact_is_word(q[-1]) && redact_is_word(*q)) {
            size_t n = 0;

            while (q + n < p && redact_is_word(q[n]))
                n++;
            if (word_names_secret(q, n) || (end - (q + n) > 3 && memcmp(q + n, "://", 3) == 0)) {
                p = q;
                break;
            }
        }
    redact_run(r, word, (size_t)(p - word), out);
    return p;
}

/* -- a line: known values become marks, then looks are judged, then marks become names ------------------- */

static void redact_mark_known(struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    const char *begin = p;

    while (p < end) {
        const struct redact_value *v = redact_known_at(r, begin, p, end);

        if (v) {
            tb_buf_printf(out, "%c%zu%c", MARK, (size_t)(v - r->v), MARK_END);
            p += v->len;
        } else {
            tb_buf_append(out, *p == MARK || *p == MARK_END ? "?" : p, 1);
            p++;
        }
    }
}

static void redact_by_looks(struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    while (p < end) {
        const char *next = redact_in_run(*p) ? redact_word(r, p, end, out) : p;

        if (next == p)
            tb_buf_append(out, p++, 1);
        else
            p = next;
    }
}

static void redact_name_marks(const struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    while (p < end) {
        const char *mark = memchr(p, MARK, (size_t)(end - p)), *mark_end;
        const struct redact_value *v;

        tb_buf_append(out, p, (size_t)((mark ? mark : end) - p));
        if (!mark)
            break;
        v = &r->v[strtoul(mark + 1, NULL, 10)];
        mark_end = memchr(mark, MARK_END, (size_t)(end - mark));
        if (redact_keeps(r, v->class))
            tb_buf_append(out, v->text, v->len);
        else
            redact_name(v, v->class, out);
        p = mark_end + 1;
    }
}

static int redact_line(struct redactor *r, const char *p, const char *end, struct tb_buf *out)
{
    _cleanup_buf_ struct tb_buf plain = {.secret = true}, marked = {.secret = true},
                                judged = {.secret = true};

    if (unescape_line(p, (size_t)(end - p), &plain) && tb_buf_error(&plain) == 0) {
        p = plain.data;
        end = p + plain.len;
    }
    redact_mark_known(r, p, end, &marked);
    if (tb_buf_error(&marked) == 0 && marked.len > 0)
        redact_by_looks(r, marked.data, marked.data + marked.len, &judged);
    if (tb_buf_error(&marked) == 0 && tb_buf_append(&judged, "", 1) == 0)
        redact_name_marks(r, judged.data, judged.data + judged.len - 1, out);
    return tb_buf_error(&plain)    ? tb_buf_error(&plain)
           : tb_buf_error(&marked) ? tb_buf_error(&marked)
                                   : tb_buf_error(&judged);
}

/* A block that was cut has no end: what cannot be of one ends it, or all that follows would be gone. */
static bool redact_is_pem_line(const char *p, const char *end)
{
    size_t blanks = 0;

    while (p < end && isspace((unsigned char)*p))
        p++;
    for (; p < end; p++) {
        blanks += *p == ' ';
        if (!isalnum((unsigned char)*p) && (*p == '\0' || !strchr("+/=-:,. \t\r\\\"'", *p)))
            return false;
    }
    return blanks <= 4;
}

int redact_text(struct redactor *r, const char *text, size_t len, struct tb_buf *out)
{
    const char *p = text, *end = text + len;
    int e = 0;

    r->in_pem = false;
    while (p < end && e == 0) {
        const char *line_end = memchr(p, '\n', (size_t)(end - p)), *pem;

        if (!line_end)
            line_end = end;
        pem = memmem(p, (size_t)(line_end - p), "-----BEGIN ", 11);
        r->in_pem = r->in_pem && redact_is_pem_line(p, line_end);
        if (r->in_pem) {
            r->in_pem = !memmem(p, (size_t)(line_end - p), "-----END ", 9);
        } else if (pem) {
            e = redact_line(r, p, pem, out);
            tb_buf_puts(out, "<secret: PEM>\n");
            r->in_pem = !memmem(pem, (size_t)(line_end - pem), "-----END ", 9);
        } else {
            e = redact_line(r, p, line_end, out);
            if (line_end < end)
                tb_buf_append(out, "\n", 1);
        }
        p = line_end < end ? line_end + 1 : end;
    }
    return e < 0 ? e : tb_buf_error(out);
}
