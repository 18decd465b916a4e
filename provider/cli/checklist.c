/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/checklist.h"

#include <assert.h>
#include <limits.h>
#include <stdarg.h>
#include <string.h>

#include "common/io.h"
#include "common/text.h"
#include "provider/cli/table.h"

#define DETAIL_MAX 1024
#define ROW_INDENT 24 /* name and state */

static const char *const state_words[] = {
    [CHECK_OK] = "ok", [CHECK_WARNING] = "warning", [CHECK_UNKNOWN] = "unknown", [CHECK_FAILED] = "failed"};

void checklist_clear(struct checklist *l)
{
    for (size_t i = 0; i < l->n; i++) {
        tb_freep(&l->v[i].detail);
        cli_faults_clear(&l->v[i].faults);
    }
    l->n = 0;
}

struct finding *checklist_begin(struct checklist *l, const char *name)
{
    struct finding *k = &l->v[l->n++];

    assert(l->n <= CHECKS_MAX);
    *k = (struct finding){.name = name};
    cli_capture_faults(&k->faults);
    return k;
}

static int check_finish(struct finding *k, int rc, enum check_state state, const char *fmt, va_list ap)
{
    char detail[DETAIL_MAX];

    cli_capture_faults(NULL);
    if (rc != CLI_OK || k->faults.n > 0) {
        k->state = CHECK_FAILED;
        return rc != CLI_OK ? rc : cli_faults_rc(&k->faults);
    }
    vsnprintf(detail, sizeof(detail), fmt, ap);
    k->state = state;
    k->detail = strdup(detail);
    return CLI_OK;
}

int checklist_end(struct finding *k, int rc, enum check_state state, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    rc = check_finish(k, rc, state, fmt, ap);
    va_end(ap);
    return rc;
}

void checklist_note(struct checklist *l, const char *name, enum check_state state, const char *fmt, ...)
{
    struct finding *k = checklist_begin(l, name);
    va_list ap;

    va_start(ap, fmt);
    (void)check_finish(k, CLI_OK, state, fmt, ap);
    va_end(ap);
}

const struct finding *checklist_find(const struct checklist *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->v[i].name, name) == 0)
            return &l->v[i];
    return NULL;
}

/* -- what came of them ------------------------------------------------------------------------- */

static void checklist_gather(const struct checklist *l, struct cli_faults *ret)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct cli_faults *f = &l->v[i].faults;

        for (size_t j = 0; j < f->n; j++)
            cli_faults_add(ret, f->v[j].rc, f->v[j].object, f->v[j].reason, f->v[j].remedy);
    }
}

int checklist_rc(const struct checklist *l)
{
    _cleanup_faults_ struct cli_faults all = {0};

    checklist_gather(l, &all);
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].state == CHECK_FAILED && all.n == 0)
            return CLI_FAILED;
    return cli_faults_rc(&all);
}

int checklist_report(const struct checklist *l)
{
    _cleanup_faults_ struct cli_faults all = {0};

    checklist_gather(l, &all);
    for (size_t i = 0; i < all.n; i++)
        tbpkg_fail_as(all.v[i].rc, *all.v[i].object ? all.v[i].object : "command line", all.v[i].reason,
                      all.v[i].remedy);
    for (size_t i = 0; i < l->n; i++)
        if (l->v[i].state == CHECK_WARNING)
            tbpkg_warn("%s: %s", l->v[i].name, l->v[i].detail ? l->v[i].detail : "");
    return checklist_rc(l);
}

/* On a terminal a long text goes on below its beginning, broken at spaces. */
static void checklist_print_row(const struct finding *k, const char *text)
{
    _cleanup_free_ char *plain = strdup(text ? text : "");
    int width = table_terminal_width(), room = width > ROW_INDENT + 20 ? width - ROW_INDENT - 1 : INT_MAX;

    printf("%-14s %-8s ", k->name, state_words[k->state]);
    for (const char *p = plain ? tb_text_plain(plain) : "";;) {
        size_t all = strlen(p), n = all;

        if (all > (size_t)room)
            for (n = (size_t)room; n > 0 && p[n] != ' '; n--)
                ;
        n = n > 0 ? n : strcspn(p, " ");
        printf("%.*s\n", (int)n, p);
        if (n >= all)
            return;
        p += n + 1;
        printf("%*s", ROW_INDENT, "");
    }
}

int checklist_print(const struct checklist *l)
{
    for (size_t i = 0; i < l->n; i++) {
        const struct finding *k = &l->v[i];

        if (k->state != CHECK_FAILED)
            checklist_print_row(k, k->detail);
        for (size_t j = 0; j < k->faults.n; j++) {
            const struct cli_fault *f = &k->faults.v[j];
            _cleanup_free_ char *text = tb_strf("%s%s%s", f->object, *f->object ? ": " : "", f->reason);

            checklist_print_row(k, text);
        }
        if (k->state == CHECK_FAILED && k->faults.n == 0)
            checklist_print_row(k, "");
    }
    return cli_flush_stdout();
}

cJSON *checklist_json(const struct checklist *l)
{
    cJSON *list = cJSON_CreateArray();

    for (size_t i = 0; i < l->n; i++) {
        const struct finding *k = &l->v[i];
        cJSON *o = cJSON_CreateObject(), *problems;

        cJSON_AddStringToObject(o, "check", k->name);
        cJSON_AddStringToObject(o, "state", state_words[k->state]);
        if (k->detail)
            cJSON_AddStringToObject(o, "detail", k->detail);
        problems = k->faults.n > 0 ? cJSON_AddArrayToObject(o, "problems") : NULL;
        for (size_t j = 0; j < k->faults.n; j++) {
            cJSON *f = cJSON_CreateObject();

            cJSON_AddStringToObject(f, "object", k->faults.v[j].object);
            cJSON_AddStringToObject(f, "reason", k->faults.v[j].reason);
            if (k->faults.v[j].remedy)
                cJSON_AddStringToObject(f, "remedy", k->faults.v[j].remedy);
            cJSON_AddItemToArray(problems, f);
        }
        cJSON_AddItemToArray(list, o);
    }
    return list;
}
