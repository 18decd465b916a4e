/* SPDX-License-Identifier: Apache-2.0 */
#include "common/envfile.h"

#include <ctype.h>
#include <string.h>

#include "common/buf.h"
#include "common/text.h"

#define ENV_NEWLINE "\n\r"
#define ENV_BLANKS " \t\n\r"
#define ENV_NONE ((size_t)-1)

/* The states of systemd's parser, by its names. */
enum env_state {
    ENV_PRE_KEY,
    ENV_KEY,
    ENV_PRE_VALUE,
    ENV_VALUE,
    ENV_VALUE_ESCAPE,
    ENV_SINGLE,
    ENV_DOUBLE,
    ENV_DOUBLE_ESCAPE,
    ENV_COMMENT,
    ENV_COMMENT_ESCAPE,
};

struct env_parser {
    enum env_state state;
    struct tb_buf key, value;
    size_t key_blank, value_blank; /* where blanks at the end begin */
    unsigned line, key_line;
    bool quoted, gap, joined; /* behind a closing quote; and a blank; and something else */
    struct tb_envfile *out;
};

static bool env_is(char c, const char *set)
{
    return c != '\0' && strchr(set, c);
}

/* Appends c and remembers where the blanks at the end begin. */
static void env_put(struct tb_buf *b, size_t *blank, char c)
{
    if (!env_is(c, ENV_BLANKS))
        *blank = ENV_NONE;
    else if (*blank == ENV_NONE)
        *blank = b->len;
    tb_buf_append(b, &c, 1);
}

static char *env_take(struct tb_buf *b, size_t blank)
{
    char *s = strndup(b->data ? b->data : "", blank == ENV_NONE ? b->len : blank);

    tb_buf_clear(b);
    return s;
}

static int env_push(struct env_parser *p, bool has_value, bool unclosed)
{
    struct tb_envfile *e = p->out;
    struct tb_envfile_entry *grown = realloc(e->v, (e->n + 1) * sizeof(*e->v)), *new;

    if (!grown || p->key.error || p->value.error) {
        e->v = grown ? grown : e->v;
        return -ENOMEM;
    }
    e->v = grown;
    new = &e->v[e->n];
    *new = (struct tb_envfile_entry){.line = p->key_line, .unclosed = unclosed, .joined = p->joined};
    new->several = p->line > p->key_line;
    new->name = env_take(&p->key, p->key_blank);
    new->value = has_value ? env_take(&p->value, p->state == ENV_VALUE ? p->value_blank : ENV_NONE) : NULL;
    e->n++;
    p->quoted = p->gap = p->joined = false;
    return new->name && (new->value || !has_value) ? 0 : -ENOMEM;
}

static int env_step_key(struct env_parser *p, char c)
{
    int r = 0;

    if (p->state == ENV_PRE_KEY) {
        if (env_is(c, "#;")) {
            p->state = ENV_COMMENT;
        } else if (!env_is(c, ENV_BLANKS)) {
            p->state = ENV_KEY;
            p->key_line = p->line;
            p->key_blank = ENV_NONE;
            tb_buf_append(&p->key, &c, 1);
        }
    } else if (env_is(c, ENV_NEWLINE)) {
        r = env_push(p, false, false);
        p->state = ENV_PRE_KEY;
    } else if (c == '=') {
        p->state = ENV_PRE_VALUE;
        p->value_blank = ENV_NONE;
    } else {
        env_put(&p->key, &p->key_blank, c);
    }
    return r;
}

static int env_step_value(struct env_parser *p, char c)
{
    bool before = p->state == ENV_PRE_VALUE;

    if (env_is(c, ENV_NEWLINE)) {
        int r = env_push(p, true, false);

        p->state = ENV_PRE_KEY;
        return r;
    }
    if (before && (c == '\'' || c == '"')) {
        p->state = c == '"' ? ENV_DOUBLE : ENV_SINGLE;
        p->joined |= p->gap;
        p->quoted = true;
    } else if (c == '\\') {
        p->joined |= p->gap;
        p->state = ENV_VALUE_ESCAPE;
        p->value_blank = ENV_NONE;
    } else if (!before || !env_is(c, ENV_BLANKS)) {
        p->state = ENV_VALUE;
        p->joined |= p->gap;
        env_put(&p->value, &p->value_blank, c);
    } else {
        p->gap = p->quoted;
    }
    return 0;
}

static void env_step_quoted(struct env_parser *p, char c)
{
    if (c == (p->state == ENV_DOUBLE ? '"' : '\''))
        p->state = ENV_PRE_VALUE;
    else if (c == '\\' && p->state == ENV_DOUBLE)
        p->state = ENV_DOUBLE_ESCAPE;
    else
        tb_buf_append(&p->value, &c, 1);
}

/* The character behind a backslash. */
static void env_step_escape(struct env_parser *p, char c)
{
    if (p->state == ENV_VALUE_ESCAPE) {
        p->state = ENV_VALUE;
        if (!env_is(c, ENV_NEWLINE)) /* joins lines */
            tb_buf_append(&p->value, &c, 1);
        return;
    }
    p->state = ENV_DOUBLE;
    if (c == '\n')
        return;
    if (!env_is(c, "\"\\`$"))
        tb_buf_puts(&p->value, "\\");
    tb_buf_append(&p->value, &c, 1);
}

/* Before systemd 254 the line behind a comment that ends with a backslash was a comment too; since then it is
 * a setting. This reads it as one; tb_envfile_check() says so. */
static void env_step_comment(struct env_parser *p, char c)
{
    if (env_is(c, ENV_NEWLINE)) {
        if (p->state == ENV_COMMENT_ESCAPE && p->out->comment_line == 0)
            p->out->comment_line = p->line;
        p->state = ENV_PRE_KEY;
    } else {
        p->state = p->state == ENV_COMMENT && c == '\\' ? ENV_COMMENT_ESCAPE : ENV_COMMENT;
    }
}

static int env_step(struct env_parser *p, char c)
{
    switch (p->state) {
    case ENV_PRE_KEY:
    case ENV_KEY:
        return env_step_key(p, c);
    case ENV_PRE_VALUE:
    case ENV_VALUE:
        return env_step_value(p, c);
    case ENV_SINGLE:
    case ENV_DOUBLE:
        env_step_quoted(p, c);
        return 0;
    case ENV_VALUE_ESCAPE:
    case ENV_DOUBLE_ESCAPE:
        env_step_escape(p, c);
        return 0;
    default:
        env_step_comment(p, c);
        return 0;
    }
}

static int env_end(struct env_parser *p)
{
    switch (p->state) {
    case ENV_KEY:
        return env_push(p, false, false);
    case ENV_PRE_VALUE:
    case ENV_VALUE:
    case ENV_VALUE_ESCAPE:
        return env_push(p, true, false);
    case ENV_SINGLE:
    case ENV_DOUBLE:
    case ENV_DOUBLE_ESCAPE:
        return env_push(p, true, true);
    default:
        return 0;
    }
}

/* A NUL byte or one that is not UTF-8 makes systemd refuse the whole file. */
static void env_look_at_bytes(const char *text, size_t len, struct tb_envfile *e)
{
    unsigned line = 1;

    for (size_t i = 0; i < len && !e->nul && !e->not_utf8;) {
        char c[5] = {0};
        size_t n;

        memcpy(c, text + i, MIN(len - i, (size_t)4));
        n = c[0] == '\0' ? 0 : tb_utf8_char(c, NULL);
        e->nul = c[0] == '\0';
        e->not_utf8 = !e->nul && n == 0;
        e->odd_line = line;
        line += c[0] == '\n';
        i += n;
    }
}

int tb_envfile_parse(const char *text, size_t len, struct tb_envfile *ret)
{
    _cleanup_envfile_ struct tb_envfile e = {0};
    struct env_parser p = {.line = 1, .out = &e, .key_blank = ENV_NONE, .value_blank = ENV_NONE};
    int r = 0;

    env_look_at_bytes(text, len, &e);
    for (size_t i = 0; i < len && text[i] != '\0' && r == 0; i++) {
        r = env_step(&p, text[i]);
        /* CR LF, as Windows writes it, is one line's end. */
        p.line += text[i] == '\n' || (text[i] == '\r' && !(i + 1 < len && text[i + 1] == '\n'));
    }
    if (r == 0)
        r = env_end(&p);
    tb_buf_free(&p.key);
    tb_buf_free(&p.value);
    if (r < 0)
        return r;
    *ret = e;
    e = (struct tb_envfile){0};
    return 0;
}

void tb_envfile_clear(struct tb_envfile *e)
{
    for (size_t i = 0; i < e->n; i++) {
        free(e->v[i].name);
        free(e->v[i].value);
    }
    free(e->v);
    *e = (struct tb_envfile){0};
}

/* --- what a program gets of it -------------------------------------------------------------------------- */

bool tb_envfile_name_valid(const char *name)
{
    if (!isalpha((unsigned char)*name) && *name != '_')
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && *name != '_')
            return false;
    return true;
}

/* systemd drops a variable with control characters in its value, but for tabs and newlines. */
static bool envfile_value_valid(const char *v)
{
    for (; *v; v++)
        if (((unsigned char)*v < 0x20 && *v != '\t' && *v != '\n') || *v == 0x7f)
            return false;
    return true;
}

static bool envfile_reaches(const struct tb_envfile_entry *e)
{
    return e->value && tb_envfile_name_valid(e->name) && envfile_value_valid(e->value);
}

const struct tb_envfile_entry *tb_envfile_find(const struct tb_envfile *e, const char *name)
{
    for (size_t i = e->n; i-- > 0;)
        if (envfile_reaches(&e->v[i]) && strcmp(e->v[i].name, name) == 0)
            return &e->v[i];
    return NULL;
}

char **tb_envfile_environ(const struct tb_envfile *e)
{
    char **env = calloc(e->n + 1, sizeof(*env));
    size_t n = 0;

    for (size_t i = 0; env && i < e->n; i++) {
        if (tb_envfile_find(e, e->v[i].name) != &e->v[i])
            continue;
        if (asprintf(&env[n], "%s=%s", e->v[i].name, e->v[i].value) < 0) {
            env[n] = NULL;
            tb_envfile_free_environ(env);
            return NULL;
        }
        n++;
    }
    return env;
}

void tb_envfile_free_environ(char **env)
{
    for (char **p = env; p && *p; p++)
        free(*p);
    free(env);
}
