/* SPDX-License-Identifier: Apache-2.0 */
#include "audit/files.h"

#include <glob.h>
#include <string.h>

/* For how long a line that has no end yet may be one that tb-proxy is writing. */
#define TRIES 10
#define TRY_MS 20

struct part {
    const char *path;
    FILE *f;
    uint64_t first; /* number of its first record; 0: none */
    char *line;     /* that was read */
    size_t cap;
    ssize_t len; /* -1: end of file */
};

static void part_read_line(struct part *p)
{
    p->len = getline(&p->line, &p->cap, p->f);
}

static int part_open(struct part *p, const char *path)
{
    char err[TB_CHAIN_ERR_MAX];
    struct tb_chain_entry e;

    p->path = path;
    p->f = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (!p->f)
        return -errno;
    errno = 0;
    part_read_line(p);
    if (p->len < 0)
        return ferror(p->f) ? -errno : 0;
    if (tb_chain_parse(p->line, (size_t)p->len - (p->line[p->len - 1] == '\n'), &e, err) == 0)
        p->first = e.seq;
    return 0;
}

static void part_close(struct part *p)
{
    if (p->f && p->f != stdin)
        fclose(p->f);
    free(p->line);
}

/* What follows of a line without an end. */
static void part_wait_for_end(struct part *p)
{
    char *more = NULL, *whole;
    size_t cap = 0;

    for (int i = 0; i < TRIES && p->line[p->len - 1] != '\n'; i++) {
        ssize_t n;

        tb_sleep_ms(TRY_MS);
        clearerr(p->f);
        n = getline(&more, &cap, p->f);
        whole = n > 0 ? realloc(p->line, (size_t)(p->len + n) + 1) : NULL;
        if (!whole)
            continue;
        memcpy(whole + p->len, more, (size_t)n + 1);
        p->line = whole;
        p->len += n;
        p->cap = (size_t)p->len + 1;
    }
    free(more);
}

static int part_verify(struct part *p, struct tb_verify *v)
{
    int r = 0;

    for (uint64_t n = 1; r >= 0 && p->len > 0; n++) {
        /* Up to the head all lines are there, or never will be. */
        if (p->line[p->len - 1] != '\n' && p->f != stdin && !tb_verify_wants_more(v))
            part_wait_for_end(p);
        if (p->line[p->len - 1] == '\n')
            r = tb_verify_line(v, p->path, n, p->line, (size_t)p->len - 1, NULL);
        else
            tb_verify_problem(v, TB_AUDIT_PROBLEM_DAMAGED, p->path, n, 0, "the line was cut off");
        if (r >= 0)
            part_read_line(p);
    }
    return r < 0 ? r : ferror(p->f) ? -EIO : 0;
}

void tb_files_clear(struct tb_files *f)
{
    for (size_t i = 0; i < f->n; i++)
        free(f->v[i]);
    free(f->v);
    *f = (struct tb_files){0};
}

static int files_add(struct tb_files *f, const char *name)
{
    char **v = reallocarray(f->v, f->n + 1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    f->v = v;
    v[f->n] = strdup(name);
    return v[f->n] ? (f->n++, 0) : -ENOMEM;
}

static int files_glob_error; /* of the directory that glob() could not read */

static int files_glob_failed(const char *path, int error)
{
    if (error == ENOENT || error == ENOTDIR)
        return 0;
    files_glob_error = error;
    return 1;
}

static int files_add_matches(struct tb_files *f, const char *pattern)
{
    glob_t g = {0};
    int r;

    files_glob_error = 0;
    r = glob(pattern, 0, files_glob_failed, &g);
    if (r != 0)
        r = r == GLOB_NOSPACE ? -ENOMEM : files_glob_error ? -files_glob_error : -ENOENT;
    for (size_t i = 0; r == 0 && i < g.gl_pathc; i++)
        r = files_add(f, g.gl_pathv[i]);
    globfree(&g);
    return r;
}

int tb_files_expand(char **names, size_t n, struct tb_files *ret, const char **ret_bad)
{
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++) {
        *ret_bad = names[i];
        if (strpbrk(names[i], "*?[") && access(names[i], F_OK) < 0)
            r = files_add_matches(ret, names[i]);
        else
            r = files_add(ret, names[i]);
    }
    return r;
}

static int by_first(const void *a, const void *b)
{
    const struct part *x = a, *y = b;

    return (x->first > y->first) - (x->first < y->first);
}

int tb_files_verify(struct tb_verify *v, char **paths, size_t n, const char **ret_bad)
{
    _cleanup_free_ struct part *part = calloc(n, sizeof(*part));
    int r = part ? 0 : -ENOMEM;

    for (size_t i = 0; r >= 0 && i < n; i++) {
        *ret_bad = paths[i];
        r = part_open(&part[i], paths[i]);
    }
    if (r >= 0)
        qsort(part, n, sizeof(*part), by_first);
    for (size_t i = 0; r >= 0 && i < n; i++) {
        *ret_bad = part[i].path;
        r = part_verify(&part[i], v);
    }
    for (size_t i = 0; part && i < n; i++)
        part_close(&part[i]);
    return r;
}
