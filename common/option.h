/* SPDX-License-Identifier: Apache-2.0 */
/* The options of a program, or of one of its commands, as a table: it is what the command line is parsed by
 * and what --help prints. A row fills one variable of the caller's struct; rules that join several options
 * are the caller's code. */
#ifndef TB_OPTION_H
#define TB_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/macros.h"

#define TB_OPTIONS_MAX 128 /* rows of a table, headings included */
#define TB_OPTION_ERR_MAX 512

enum tb_option_kind {
    TB_OPTION_STRING,   /* const char * */
    TB_OPTION_DIR_NAME, /* const char *, without the '/' at its end */
    TB_OPTION_LIST,     /* struct tb_option_list: may be repeated */
    TB_OPTION_FLAG,     /* bool */
    TB_OPTION_STOP,     /* bool; the words after it are not looked at: --help, --version */
    TB_OPTION_BITS,     /* unsigned: max is or-ed into it */
    TB_OPTION_UINT,     /* uint64_t, min to max */
    TB_OPTION_SIZE,     /* uint64_t, as tb_size_parse() takes it, min to max bytes */
    TB_OPTION_CALL,     /* set() decides */
    TB_OPTION_HEADING,  /* not an option: a line of the help, after an empty one */
};

struct tb_option_list {
    const char **v;
    size_t n;
};
static inline void tb_option_list_clear(struct tb_option_list *l)
{
    tb_freep(&l->v);
    l->n = 0;
}

struct tb_option {
    char letter;      /* 0: none */
    const char *name; /* long name; NULL: a heading, or the end of the table */
    const char *arg;  /* what the help calls its value; NULL: it takes none */
    bool optional;    /* --name alone is right, too: its variable stays as it is */
    enum tb_option_kind kind;
    size_t at;           /* offset of its variable */
    const char *help;    /* NULL: --help does not show it */
    const char *setting; /* for the caller: where its value comes from when it is not given; or NULL */
    uint64_t min, max;
    /* CALL: takes the value, which is writable and the option's own word. 0, or a negative errno with the
     * reason in err, which stays "" where `want` says what was expected. */
    int (*set)(const struct tb_option *o, void *var, char *value, char err[static TB_OPTION_ERR_MAX]);
    const char *want; /* CALL: "a time like 2026-12-31T00:00:00Z" */
};

/* A row. The caller defines TB_OPTION_TARGET before its table: the type of the struct that the rows fill.
 * What follows the help: .optional, .setting, .min, .max, .set, .want. */
#define TB_OPTION(l, n, a, k, member, h, ...)                                                                \
    {                                                                                                        \
        .letter = l, .name = n, .arg = a, .kind = k, .at = offsetof(TB_OPTION_TARGET, member), .help = h,    \
        __VA_ARGS__                                                                                          \
    }
#define TB_OPTION_HEADING_ROW(h)                                                                             \
    {                                                                                                        \
        .kind = TB_OPTION_HEADING, .help = h                                                                 \
    }
#define TB_OPTION_END                                                                                        \
    {                                                                                                        \
        .name = NULL                                                                                         \
    }

struct tb_options {
    const struct tb_option *rows;
    bool given[TB_OPTIONS_MAX]; /* row i was on the command line */
    char error[TB_OPTION_ERR_MAX];
};

/* Parses argv[1] and on into *target; words that are no options start at optind. 0, or -EINVAL or -ENOMEM
 * with a sentence in o->error that names the option and repeats its value only where that is of a wrong form
 * and no secret (CALL: set() decides). Values point into argv. */
int tb_options_parse(struct tb_options *o, void *target, int argc, char **argv);
/* Sets one row's variable from elsewhere; origin says where, in messages. As above. */
int tb_options_set(struct tb_options *o, void *target, size_t row, const char *origin, char *value);
bool tb_options_given(const struct tb_options *o, const char *name);

/* What --help prints of the table. note, if not NULL, returns a text to add to a row's help (heap), or
 * NULL. */
void tb_options_help(const struct tb_option *rows, FILE *f, char *(*note)(const struct tb_option *o));

static inline bool tb_option_is_end(const struct tb_option *o)
{
    return !o->name && o->kind != TB_OPTION_HEADING;
}

#endif
