/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/option.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "provider/cli/settings.h"
#include "common/units.h"
#include "common/version.h"

#define HELP_COLUMN_MAX 34 /* where the texts start at most */
#define HELP_WIDTH 100
#define CODE(i) (256 + (int)(i)) /* what getopt_long() returns for row i */

/* -- help ---------------------------------------------------------------------------------------------------------- */

static int label_width(const struct cli_option *o)
{
    return (int)(6 + 2 + strlen(o->name) + (o->arg ? 1 + strlen(o->arg) : 0));
}

/* Words from column on, and again from there on the next lines. at: where the cursor stands. */
static void print_wrapped(FILE *f, const char *text, int at, int column)
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

static void print_option(FILE *f, const struct cli_option *o, int column)
{
    const char *env = o->setting ? setting_env(o->setting) : NULL;
    _cleanup_free_ char *text = NULL;
    int n;

    n = o->letter ? fprintf(f, "  -%c, ", o->letter) : fprintf(f, "      ");
    n += fprintf(f, "--%s%s%s", o->name, o->arg ? "=" : "", o->arg ? o->arg : "");
    if (n + 2 > column) {
        fputc('\n', f);
        n = 0;
    }
    text = env ? tb_strf("%s [$%.*s]", o->help, (int)strcspn(env, " "), env) : NULL;
    print_wrapped(f, text ? text : o->help, n, column);
}

void cli_help(const struct tbpkg_command *command, FILE *f)
{
    int column = 0;

    for (const struct cli_option *o = command->options; o->name || o->kind == CLI_HEADING; o++)
        if (o->name && o->kind != CLI_GONE)
            column = MAX(column, MIN(label_width(o) + 2, HELP_COLUMN_MAX));
    fprintf(f, "Usage: tbpkg %s %s\n%s\n", command->name, command->synopsis, command->about);
    for (const struct cli_option *o = command->options; o->name || o->kind == CLI_HEADING; o++) {
        if (o->kind == CLI_HEADING)
            fprintf(f, "\n%s\n", o->help);
        else if (o->kind != CLI_GONE)
            print_option(f, o, column);
    }
    if (command->tail)
        fprintf(f, "\n%s", command->tail);
}

/* -- values -------------------------------------------------------------------------------------------------------- */

/* 4194304 as people write it: "4M". */
static const char *size_text(uint64_t n, char out[static 32])
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

static int bad_value(const struct cli *c, const char *origin, const struct cli_option *o, const char *value)
{
    char min[32], max[32];

    if (o->kind == CLI_SIZE)
        return cli_usage(c, "%s: a size from %s to %s, not '%s'", origin, size_text(o->min, min),
                         size_text(o->max, max), value);
    return cli_usage(c, "%s: a number from %llu to %llu, not '%s'", origin, (unsigned long long)o->min,
                     (unsigned long long)o->max, value);
}

static int list_add(struct cli_list *l, const char *value)
{
    const char **v = reallocarray(l->v, l->n + 1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    v[l->n++] = value;
    l->v = v;
    return 0;
}

/* value is writable: an option's own word. */
static int set_value(struct cli *c, void *var, const struct cli_option *o, const char *origin, char *value)
{
    switch (o->kind) {
    case CLI_DIR_NAME:
        for (size_t n = strlen(value); n > 1 && value[n - 1] == '/'; n--)
            value[n - 1] = '\0';
        *(const char **)var = value;
        return CLI_OK;
    case CLI_STRING:
        *(const char **)var = value;
        return CLI_OK;
    case CLI_LIST:
        return list_add(var, value) < 0 ? tbpkg_fail_errno(origin, -ENOMEM) : CLI_OK;
    case CLI_FLAG:
        *(bool *)var = true;
        return CLI_OK;
    case CLI_BITS:
        *(unsigned *)var |= (unsigned)o->max;
        return CLI_OK;
    case CLI_KEY_HEX:
        return cli_key_arg_hex(var, value) < 0 ? tbpkg_fail_errno(origin, -ENOMEM) : CLI_OK;
    case CLI_UINT:
        if (tb_uint_parse(value, o->min, o->max, var) < 0)
            return bad_value(c, origin, o, value);
        return CLI_OK;
    case CLI_SIZE:
        if (cli_parse_size(value, var) < 0 || *(uint64_t *)var < o->min || *(uint64_t *)var > o->max)
            return bad_value(c, origin, o, value);
        return CLI_OK;
    default: /* CLI_GONE */
        tbpkg_warn("%s has no meaning any more: %s", origin, o->help);
        return CLI_OK;
    }
}

/* -- the command line ---------------------------------------------------------------------------------------------- */

struct getopt_spec {
    struct option longopts[CLI_OPTIONS_MAX + 1];
    char shortopts[2 * CLI_OPTIONS_MAX + 2];
};

static void make_spec(const struct cli_option *rows, struct getopt_spec *ret)
{
    char *s = ret->shortopts;
    size_t n = 0;

    *s++ = ':';
    for (size_t i = 0; (rows[i].name || rows[i].kind == CLI_HEADING) && i < CLI_OPTIONS_MAX; i++) {
        if (!rows[i].name)
            continue;
        ret->longopts[n++] =
            (struct option){rows[i].name, rows[i].arg ? required_argument : no_argument, NULL, CODE(i)};
        if (!rows[i].letter)
            continue;
        *s++ = rows[i].letter;
        if (rows[i].arg)
            *s++ = ':';
    }
}

/* What getopt_long() did not like. Only the option's name is repeated: its value may be a secret. */
static int bad_option(const struct cli *c, int what, char **argv)
{
    const char *word = argv[optind - 1];
    bool is_long = strncmp(word, "--", 2) == 0;

    if (what == ':' && optopt < 256 && !is_long)
        return cli_usage(c, "option '-%c' needs a value", optopt);
    if (what == ':')
        return cli_usage(c, "option '%.*s' needs a value", (int)strcspn(word, "="), word);
    if (!is_long)
        return cli_usage(c, "unknown option '-%c'", optopt);
    if (optopt >= 256)
        return cli_usage(c, "option '--%s' takes no value", c->command->options[optopt - 256].name);
    return cli_usage(c, "unknown or ambiguous option '%.*s'", (int)strcspn(word, "="), word);
}

static const struct cli_option *row_of(const struct cli_option *rows, int o)
{
    if (o >= 256)
        return &rows[o - 256];
    while (rows->letter != o)
        rows++;
    return rows;
}

static int parse_words(struct cli *c, void *job, int argc, char **argv)
{
    const struct cli_option *rows = c->command->options;
    struct getopt_spec spec = {0};
    char origin[64];

    make_spec(rows, &spec);
    opterr = 0;
    optind = 0; /* publish parses several command lines */
    for (;;) {
        const struct cli_option *row;
        int rc, o = getopt_long(argc, argv, spec.shortopts, spec.longopts, NULL);

        if (o == -1)
            return CLI_OK;
        if (o == ':' || o == '?')
            return bad_option(c, o, argv);
        row = row_of(rows, o);
        c->given |= UINT64_C(1) << (row - rows);
        snprintf(origin, sizeof(origin), "--%s", row->name);
        rc = set_value(c, (char *)job + row->at, row, origin, optarg);
        if (rc != CLI_OK || c->want_help || c->want_version)
            return rc;
    }
}

static int take_settings(struct cli *c, void *job)
{
    const struct cli_option *rows = c->command->options;
    int rc = settings_load(c->config);

    for (size_t i = 0; rc == CLI_OK && (rows[i].name || rows[i].kind == CLI_HEADING); i++) {
        struct setting_value v;

        if (rows[i].setting && !(c->given & UINT64_C(1) << i) && setting_get(rows[i].setting, &v))
            rc = set_value(c, (char *)job + rows[i].at, &rows[i], v.source, v.value);
    }
    return rc;
}

int cli_parse(struct cli *c, void *job, int argc, char **argv)
{
    c->rc = parse_words(c, job, argc, argv);
    if (c->rc != CLI_OK)
        return CLI_STOP;
    if (c->want_help)
        cli_help(c->command, stdout);
    else if (c->want_version)
        puts("tbpkg " TB_VERSION);
    if (c->want_help || c->want_version)
        return CLI_STOP;
    c->rc = take_settings(c, job);
    return c->rc == CLI_OK ? CLI_OK : CLI_STOP;
}

bool cli_given(const struct cli *c, const char *name)
{
    const struct cli_option *rows = c->command->options;

    for (size_t i = 0; rows[i].name || rows[i].kind == CLI_HEADING; i++)
        if (rows[i].name && strcmp(rows[i].name, name) == 0)
            return c->given & UINT64_C(1) << i;
    return false;
}

static bool check_only;

void cli_check_only(bool on)
{
    check_only = on;
}

int cli_ready(const struct cli *c)
{
    return c->rc == CLI_OK && !check_only ? CLI_OK : CLI_STOP;
}

int cli_no_positional(const struct cli *c, int argc, char **argv)
{
    return optind < argc ? cli_usage(c, "'%s' is too much", argv[optind]) : CLI_OK;
}
