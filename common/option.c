/* SPDX-License-Identifier: Apache-2.0 */
#include "common/option.h"

#include <assert.h>
#include <getopt.h>
#include <stdarg.h>
#include <string.h>

#include "common/near.h"
#include "common/units.h"

#define HELP_COLUMN_MAX 34 /* where the texts start at most */
#define HELP_WIDTH 100
#define OPTION_CODE(i) (256 + (int)(i)) /* what getopt_long() returns for row i */

/* -- help -------------------------------------------------------------------------------------- */

static int option_label_width(const struct tb_option *o)
{
    return (int)(6 + 2 + strlen(o->name) + (o->arg ? 1 + strlen(o->arg) : 0) + (o->optional ? 2 : 0));
}

/* Words from column on, and again from there on the next lines. at: where the cursor stands. */
static void option_print_wrapped(FILE *f, const char *text, int at, int column)
{
    for (; at < column; at++)
        fputc(' ', f);
    while (*text) {
        int n = (int)strcspn(text, " \n");
        bool newline = text[n] == '\n';

        if (at > column && at + 1 + n > HELP_WIDTH) {
            fprintf(f, "\n%*s", column, "");
            at = column;
        }
        if (at > column && fputc(' ', f) != EOF)
            at++;
        fprintf(f, "%.*s", n, text);
        at += n;
        text += n + (text[n] != '\0');
        if (newline && *text) {
            fprintf(f, "\n%*s", column, "");
            at = column;
        }
    }
    fputc('\n', f);
}

static void option_print(FILE *f, const struct tb_option *o, int column,
                         char *(*note)(const struct tb_option *o))
{
    _cleanup_free_ char *more = note ? note(o) : NULL, *text = NULL;
    int n;

    n = o->letter ? fprintf(f, "  -%c, ", o->letter) : fprintf(f, "      ");
    n +=
        fprintf(f, o->optional ? "--%s[%s%s]" : "--%s%s%s", o->name, o->arg ? "=" : "", o->arg ? o->arg : "");
    if (n + 2 > column) {
        fputc('\n', f);
        n = 0;
    }
    if (more && asprintf(&text, "%s %s", o->help, more) < 0)
        text = NULL;
    option_print_wrapped(f, text ? text : o->help, n, column);
}

void tb_options_help(const struct tb_option *rows, FILE *f, char *(*note)(const struct tb_option *o))
{
    int column = 0;

    for (const struct tb_option *o = rows; !tb_option_is_end(o); o++)
        if (o->name && o->help)
            column = MAX(column, MIN(option_label_width(o) + 2, HELP_COLUMN_MAX));
    for (const struct tb_option *o = rows; !tb_option_is_end(o); o++) {
        if (!o->name)
            fprintf(f, "\n%s\n", o->help);
        else if (o->help)
            option_print(f, o, column, note);
    }
}

/* -- values ------------------------------------------------------------------------------------ */

static int option_fail(struct tb_options *o, int r, const char *fmt, ...) _printf_(3, 4);
static int option_fail(struct tb_options *o, int r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(o->error, sizeof(o->error), fmt, ap);
    va_end(ap);
    return r;
}

/* 4194304 as people write it: "4M". */
static const char *option_size_text(uint64_t n, char out[static 32])
{
    static const char units[] = " KMGT";
    unsigned u = 0;

    while (n >= 1024 && n % 1024 == 0 && units[u + 1]) {
        n /= 1024;
        u++;
    }
    snprintf(out, 32, u ? "%llu%c" : "%llu", (unsigned long long)n, units[u]);
    return out;
}

static int option_bad_number(struct tb_options *o, const struct tb_option *row, const char *origin,
                             const char *value)
{
    char min[32], max[32];

    if (row->kind == TB_OPTION_SIZE)
        return option_fail(o, -EINVAL, "%s: a size from %s to %s, not '%s'", origin,
                           option_size_text(row->min, min), option_size_text(row->max, max), value);
    return option_fail(o, -EINVAL, "%s: a number from %llu to %llu, not '%s'", origin,
                       (unsigned long long)row->min, (unsigned long long)row->max, value);
}

static int option_list_add(struct tb_option_list *l, const char *value)
{
    const char **v = reallocarray(l->v, l->n + 1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    v[l->n++] = value;
    l->v = v;
    return 0;
}

static int option_call(struct tb_options *o, const struct tb_option *row, void *var, const char *origin,
                       char *value)
{
    char err[TB_OPTION_ERR_MAX] = "";
    int r = row->set(row, var, value, err);

    if (r >= 0)
        return 0;
    if (*err)
        return option_fail(o, r, "%s: %.480s", origin, err);
    return row->want ? option_fail(o, r, "%s: %s, not '%s'", origin, row->want, value)
                     : option_fail(o, r, "%s: %s", origin, strerror(-r));
}

int tb_options_set(struct tb_options *o, void *target, size_t i, const char *origin, char *value)
{
    const struct tb_option *row = &o->rows[i];
    void *var = (char *)target + row->at;

    switch (row->kind) {
    case TB_OPTION_DIR_NAME:
        for (size_t n = strlen(value); n > 1 && value[n - 1] == '/'; n--)
            value[n - 1] = '\0';
        *(const char **)var = value;
        return 0;
    case TB_OPTION_STRING:
        *(const char **)var = value;
        return 0;
    case TB_OPTION_LIST:
        return option_list_add(var, value) < 0 ? option_fail(o, -ENOMEM, "%s: out of memory", origin) : 0;
    case TB_OPTION_FLAG:
    case TB_OPTION_STOP:
        *(bool *)var = true;
        return 0;
    case TB_OPTION_BITS:
        *(unsigned *)var |= (unsigned)row->max;
        return 0;
    case TB_OPTION_UINT:
        return tb_uint_parse(value, row->min, row->max, var) < 0 ? option_bad_number(o, row, origin, value)
                                                                 : 0;
    case TB_OPTION_SIZE:
        if (tb_size_parse(value, var) < 0 || *(uint64_t *)var < row->min || *(uint64_t *)var > row->max)
            return option_bad_number(o, row, origin, value);
        return 0;
    case TB_OPTION_CALL:
        return option_call(o, row, var, origin, value);
    case TB_OPTION_HEADING:
        break;
    }
    assert(!"a heading has no value");
    return -EINVAL;
}

/* -- the command line -------------------------------------------------------------------------- */

struct option_spec {
    struct option longs[TB_OPTIONS_MAX + 1];
    char shorts[3 * TB_OPTIONS_MAX + 2];
};

static void option_make_spec(const struct tb_option *rows, struct option_spec *ret)
{
    char *s = ret->shorts;
    size_t n = 0;

    *s++ = ':';
    for (size_t i = 0; !tb_option_is_end(&rows[i]); i++) {
        assert(i < TB_OPTIONS_MAX);
        if (!rows[i].name)
            continue;
        ret->longs[n++] = (struct option){rows[i].name,
                                          !rows[i].arg       ? no_argument
                                          : rows[i].optional ? optional_argument
                                                             : required_argument,
                                          NULL, OPTION_CODE(i)};
        if (!rows[i].letter)
            continue;
        *s++ = rows[i].letter;
        if (rows[i].arg)
            *s++ = ':';
        if (rows[i].arg && rows[i].optional)
            *s++ = ':';
    }
}

/* Unknown, or the beginning of several: which ones, or what was meant. */
static int option_refuse_long(struct tb_options *o, const char *word)
{
    char name[64], several[TB_OPTION_ERR_MAX - 128] = "";
    const char *near = NULL;
    size_t n = 0, found = 0;

    snprintf(name, sizeof(name), "%.*s", (int)strcspn(word, "="), word);
    for (const struct tb_option *row = o->rows; !tb_option_is_end(row); row++) {
        if (!row->name || !row->help)
            continue;
        if (strncmp(row->name, name, strlen(name)) == 0 && n < sizeof(several)) {
            n += (size_t)snprintf(several + n, sizeof(several) - n, "%s--%s", found ? ", " : "", row->name);
            found++;
        }
        if (!near && tb_near(name, row->name))
            near = row->name;
    }
    if (found > 1)
        return option_fail(o, -EINVAL, "option '--%s' is ambiguous: %s", name, several);
    return near ? option_fail(o, -EINVAL, "unknown option '--%s'; did you mean '--%s'?", name, near)
                : option_fail(o, -EINVAL, "unknown option '--%s'", name);
}

/* What getopt_long() did not like. Only the option's name is repeated: its value may be a secret. */
static int option_refuse(struct tb_options *o, int what, char **argv)
{
    const char *word = argv[optind - 1];
    bool is_long = strncmp(word, "--", 2) == 0;

    if (what == ':' && optopt < 256 && !is_long)
        return option_fail(o, -EINVAL, "option '-%c' needs a value", optopt);
    if (what == ':')
        return option_fail(o, -EINVAL, "option '%.*s' needs a value", (int)strcspn(word, "="), word);
    if (!is_long)
        return option_fail(o, -EINVAL, "unknown option '-%c'", optopt);
    if (optopt >= 256)
        return option_fail(o, -EINVAL, "option '--%s' takes no value", o->rows[optopt - 256].name);
    return option_refuse_long(o, word + 2);
}

static size_t option_row(const struct tb_option *rows, int code)
{
    size_t i = 0;

    if (code >= 256)
        return (size_t)code - 256;
    while (rows[i].letter != code)
        i++;
    return i;
}

int tb_options_parse(struct tb_options *o, void *target, int argc, char **argv)
{
    struct option_spec spec = {0};
    char origin[64];

    option_make_spec(o->rows, &spec);
    o->error[0] = '\0';
    opterr = 0;
    optind = 0; /* a process may parse several command lines */
    for (;;) {
        int r, c = getopt_long(argc, argv, spec.shorts, spec.longs, NULL);
        size_t row;

        if (c == -1)
            return 0;
        if (c == ':' || c == '?')
            return option_refuse(o, c, argv);
        row = option_row(o->rows, c);
        o->given[row] = true;
        if (o->rows[row].optional && !optarg)
            continue;
        snprintf(origin, sizeof(origin), "--%s", o->rows[row].name);
        r = tb_options_set(o, target, row, origin, optarg);
        if (r < 0 || o->rows[row].kind == TB_OPTION_STOP)
            return r;
    }
}

bool tb_options_given(const struct tb_options *o, const char *name)
{
    for (size_t i = 0; !tb_option_is_end(&o->rows[i]); i++)
        if (o->rows[i].name && strcmp(o->rows[i].name, name) == 0)
            return o->given[i];
    assert(!"no such option");
    return false;
}
