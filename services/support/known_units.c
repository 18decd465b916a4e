/* SPDX-License-Identifier: Apache-2.0 */
/* What an administrator's drop-ins give to our units: systemd quotes a line that it does not like. */
#include <ctype.h>
#include <glob.h>
#include <string.h>

#include "common/io.h"
#include "support/support.h"

#define DROP_IN_MAX (1UL << 20)
#define VALUE_MIN 6 /* shorter ones are numbers and switches */

/* A path is none, nor is what stands in every text. */
static void known_unit_value(struct redactor *r, const char *value, size_t len)
{
    _cleanup_free_ char *copy = strndup(value, len);

    if (copy && len >= VALUE_MIN && !(copy[0] == '/' && access(copy, F_OK) == 0))
        (void)redactor_know(r, copy, len, REDACT_SECRET);
}

/* Words with blanks between them, each as it is or in quotes: "A=1" 'B=two words' C=3. */
static void known_unit_environment(struct redactor *r, const char *p)
{
    while (*p) {
        char quote = '\0';
        const char *word, *equals;

        p += strspn(p, " \t");
        word = p;
        if (*p == '"' || *p == '\'')
            quote = *p++;
        for (; *p && (quote || !strchr(" \t", *p)) && *p != quote; p++)
            if (*p == '\\' && p[1])
                p++;
        equals = memchr(word, '=', (size_t)(p - word));
        /* One that is no assignment is quoted by systemd as a whole. */
        word = equals ? equals + 1 : word + (quote != '\0');
        if (p > word)
            known_unit_value(r, word, (size_t)(p - word));
        p += quote && *p == quote;
    }
}

static void known_unit_line(const struct support_places *p, struct redactor *r, const char *line)
{
    const char *value = strchr(line, '='), *colon;

    if (!value)
        return;
    value += 1 + strspn(value + 1, " \t");
    if (strncmp(line, "EnvironmentFile", 15) == 0) {
        _cleanup_free_ char *path = tb_strf("%s%s", p->root, value + (*value == '-')), *text = NULL;

        if (path && tb_read_file(path, DROP_IN_MAX, &text, NULL) == 0)
            support_know_settings(r, text);
    } else if (strncmp(line, "Environment", 11) == 0) {
        known_unit_environment(r, value);
    } else if (strncmp(line, "SetCredential", 13) == 0 && (colon = strchr(value, ':'))) {
        known_unit_value(r, colon + 1, strlen(colon + 1));
    }
}

/* Lines that end with a backslash go on, remarks between them are passed over. */
static void known_unit_file(const struct support_places *p, struct redactor *r, const char *path)
{
    _cleanup_buf_ struct tb_buf whole = {.secret = true};
    _cleanup_free_ char *text = NULL;
    size_t n;

    if (tb_read_file(path, DROP_IN_MAX, &text, &n) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        text[i] = text[i] == '\0' || text[i] == '\r' ? ' ' : text[i];
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        size_t len;

        line += strspn(line, " \t");
        if (*line == '#' || *line == ';')
            continue;
        for (len = strlen(line); len > 0 && isspace((unsigned char)line[len - 1]);)
            line[--len] = '\0';
        if (len > 0 && line[len - 1] == '\\') {
            line[len - 1] = ' ';
            tb_buf_append(&whole, line, len);
        } else if (tb_buf_append(&whole, line, len + 1) == 0) {
            known_unit_line(p, r, whole.data);
            tb_buf_clear(&whole);
        }
    }
    if (whole.len > 0 && tb_buf_append(&whole, "", 1) == 0)
        known_unit_line(p, r, whole.data);
}

void support_know_units(const struct support_places *p, struct redactor *r)
{
    static const char *const dirs[] = {"/etc/systemd/system", "/run/systemd/system",
                                       "/etc/systemd/system.control"};

    for (size_t k = 0; k < ARRAY_SIZE(dirs); k++) {
        _cleanup_free_ char *pattern = tb_strf("%s%s/{tb-,trustbridge}*.d/*.conf", p->root, dirs[k]);
        glob_t g;

        if (!pattern || glob(pattern, GLOB_BRACE, NULL, &g) != 0)
            continue;
        for (size_t i = 0; i < g.gl_pathc; i++)
            known_unit_file(p, r, g.gl_pathv[i]);
        globfree(&g);
    }
}
