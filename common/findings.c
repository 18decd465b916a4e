/* SPDX-License-Identifier: Apache-2.0 */
#include "common/findings.h"

#include <stdarg.h>
#include <string.h>

#include "common/text.h"

static const char *const level_word[] = {"error", "warning", "note"};

const char *tb_finding_level_name(enum tb_finding_level level)
{
    return level_word[level];
}

static void findings_append(struct tb_findings *f, const struct tb_finding *new)
{
    struct tb_finding *grown = new->name &&new->text ? realloc(f->v, (f->n + 1) * sizeof(*f->v)) : NULL;

    f->errors += new->level == TB_FINDING_ERROR;
    f->warnings += new->level == TB_FINDING_WARNING;
    if (!grown) {
        free(new->name);
        free(new->text);
        return;
    }
    f->v = grown;
    f->v[f->n++] = *new;
}

void tb_findings_add(struct tb_findings *f, enum tb_finding_level level, unsigned line, const char *name,
                     const char *fmt, ...)
{
    struct tb_finding new = {.level = level, .line = line, .name = strdup(name)};
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&new.text, fmt, ap) < 0)
        new.text = NULL;
    va_end(ap);
    if (new.text)
        tb_text_plain(new.text); /* it may quote a file */
    findings_append(f, &new);
}

void tb_findings_clear(struct tb_findings *f)
{
    for (size_t i = 0; i < f->n; i++) {
        free(f->v[i].name);
        free(f->v[i].text);
    }
    free(f->v);
    *f = (struct tb_findings){0};
}

void tb_findings_write(const struct tb_findings *f, FILE *out)
{
    for (size_t i = 0; i < f->n; i++)
        fprintf(out, "%s: %s: %s\n", level_word[f->v[i].level], f->v[i].name, f->v[i].text);
}

static bool findings_has(const struct tb_findings *f, const char *name, const char *text)
{
    for (size_t i = 0; i < f->n; i++)
        if (strcmp(f->v[i].name, name) == 0 && strcmp(f->v[i].text, text) == 0)
            return true;
    return false;
}

/* "level: NAME: text", cut into pieces. */
static void findings_read_line(struct tb_findings *f, char *line)
{
    char *name = strstr(line, ": "), *text = name ? strstr(name + 2, ": ") : NULL;

    if (!text)
        return;
    *name = *text = '\0';
    name += 2;
    text += 2;
    for (size_t i = 0; i < ARRAY_SIZE(level_word); i++)
        if (strcmp(line, level_word[i]) == 0 && !findings_has(f, name, text))
            tb_findings_add(f, (enum tb_finding_level)i, 0, name, "%s", text);
}

void tb_findings_read(struct tb_findings *f, const char *text, size_t len)
{
    const char *end = text + len;

    while (text < end) {
        const char *nl = memchr(text, '\n', (size_t)(end - text));
        _cleanup_free_ char *line = strndup(text, (size_t)((nl ? nl : end) - text));

        if (line)
            findings_read_line(f, line);
        text = nl ? nl + 1 : end;
    }
}
