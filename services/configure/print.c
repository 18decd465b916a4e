/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <string.h>
#include <syslog.h>

#include "common/json.h"
#include "common/log.h"
#include "common/text.h"
#include "configure/configure.h"

#define PRINT_VALUE_MAX 200

static const int finding_priority[] = {LOG_ERR, LOG_WARNING, LOG_INFO};

static void print_prefix(int priority)
{
    if (getenv("JOURNAL_STREAM"))
        fprintf(stderr, "<%d>", priority);
    else
        fputs("tb-configure: ", stderr);
}

void configure_say(int priority, const char *fmt, ...)
{
    va_list ap;

    print_prefix(priority);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
}

void configure_say_report(char *text)
{
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (line[0] == '<' && line[1] && line[2] == '>')
            configure_say(line[1] - '0', "%s", line + 3);
}

static void print_one(const struct tb_finding *one, const char *path, FILE *out)
{
    fputs(path, out);
    if (one->line > 0)
        fprintf(out, ":%u", one->line);
    fprintf(out, ": %s: %s%s%s\n", tb_finding_level_name(one->level), one->name, one->name[0] ? ": " : "",
            one->text);
}

void tb_findings_print(const struct tb_findings *f, const char *path, bool prefix, FILE *out)
{
    for (size_t i = 0; i < f->n; i++) {
        if (prefix)
            fprintf(out, "<%d>", finding_priority[f->v[i].level]);
        print_one(&f->v[i], path, out);
    }
}

static cJSON *print_json_one(const struct tb_finding *one, const struct tb_settings *s)
{
    const struct tb_envfile_entry *e = one->name[0] ? tb_envfile_find(&s->file, one->name) : NULL;
    cJSON *o = cJSON_CreateObject();

    cJSON_AddStringToObject(o, "level", tb_finding_level_name(one->level));
    cJSON_AddStringToObject(o, "file", s->path);
    if (one->line > 0)
        cJSON_AddNumberToObject(o, "line", one->line);
    if (one->name[0])
        cJSON_AddStringToObject(o, "name", one->name);
    if (e && e->line == one->line && tb_config_shows_value(one->name)) {
        char shown[PRINT_VALUE_MAX];

        cJSON_AddStringToObject(o, "value", tb_text_plain(tb_url_redact(e->value, shown, sizeof(shown))));
    }
    cJSON_AddStringToObject(o, "message", one->text);
    return o;
}

void tb_findings_print_json(const struct tb_findings *f, const struct tb_settings *s, FILE *out)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    cJSON *list = cJSON_AddArrayToObject(doc, "findings");
    _cleanup_free_ char *text = NULL;

    cJSON_AddStringToObject(doc, "file", s->path);
    cJSON_AddBoolToObject(doc, "ok", f->errors == 0);
    cJSON_AddNumberToObject(doc, "errors", f->errors);
    cJSON_AddNumberToObject(doc, "warnings", f->warnings);
    for (size_t i = 0; i < f->n; i++)
        cJSON_AddItemToArray(list, print_json_one(&f->v[i], s));
    text = cJSON_PrintUnformatted(doc);
    fprintf(out, "%s\n", text ? text : "{}");
}
