/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/envfile.h"

#define BOM "\xef\xbb\xbf"

/* As much of a line as is surely a name, for a message. */
static int envfile_name_length(const char *name)
{
    static const char chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_";
    size_t n = strspn(name, chars);

    return n <= 40 && (strncmp(name, "TB_", 3) == 0 || strncmp(name, "tb_", 3) == 0) ? (int)n : 0;
}

static void envfile_check_line(const struct tb_envfile_entry *e, struct tb_findings *f)
{
    int n = envfile_name_length(e->name);

    if (n > 0)
        tb_findings_add(
            f, TB_FINDING_ERROR, e->line, "",
            "the line that begins with %.*s has no '=', so it is ignored; write %.*s=value on one "
            "line, or put # before a comment",
            n, e->name, n, e->name);
    else
        tb_findings_add(
            f, TB_FINDING_ERROR, e->line, "",
            "the line is not NAME=value, so it is ignored; put # before a comment, and a backslash "
            "at the end of a line that goes on");
}

static void envfile_check_name(const struct tb_envfile_entry *e, struct tb_findings *f)
{
    const char *name = e->name;
    int n;

    if (strncmp(name, BOM, 3) == 0) {
        tb_findings_add(f, TB_FINDING_ERROR, e->line, name + 3,
                        "a byte order mark stands before it, so systemd drops it; save the file as UTF-8 "
                        "without byte order mark");
        return;
    }
    if (strncmp(name, "export", 6) == 0 && (name[6] == ' ' || name[6] == '\t')) {
        name += 6 + strspn(name + 6, " \t");
        tb_findings_add(
            f, TB_FINDING_ERROR, e->line, tb_envfile_name_valid(name) ? name : "",
            "\"export\" before it makes systemd drop it; this is no shell script: write NAME=value");
        return;
    }
    n = envfile_name_length(name);
    tb_findings_add(
        f, TB_FINDING_ERROR, e->line, "",
        "%s%.*s is not the name of a setting, so systemd drops it; a name has letters, digits and _ "
        "only",
        n > 0 ? "what begins with " : "what stands before '='", n, name);
}

static void envfile_check_value(const struct tb_envfile_entry *e, struct tb_findings *f)
{
    if (e->unclosed)
        tb_findings_add(f, TB_FINDING_ERROR, e->line, e->name,
                        "a quote is not closed, so that the value takes in the rest of the file; close it on "
                        "its line");
    else if (e->joined)
        tb_findings_add(f, TB_FINDING_ERROR, e->line, e->name,
                        "what stands behind the closing quote is joined to it without the blank between; "
                        "put quotes around the whole value, or none");
    for (const char *c = e->value; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t' && *c != '\n') || *c == 0x7f) {
            tb_findings_add(f, TB_FINDING_ERROR, e->line, e->name,
                            "a control character is in the value, so systemd drops it; remove it");
            return;
        }
}

/* The last of several counts. */
static void envfile_check_again(const struct tb_envfile *e, size_t i, struct tb_findings *f)
{
    const struct tb_envfile_entry *last = tb_envfile_find(e, e->v[i].name);

    if (!last || last <= &e->v[i])
        return;
    /* What the image pins, the deployment does not take back. */
    if (strcmp(e->v[i].name, "TB_PROVIDER_KEY") == 0 &&
        (!last->value || strcmp(e->v[i].value, last->value) != 0))
        tb_findings_add(
            f, TB_FINDING_ERROR, last->line, last->name,
            "line %u pins the provider's key already, and another line does not replace it; leave the "
            "line that the provider gave",
            e->v[i].line);
    else
        tb_findings_add(f, TB_FINDING_WARNING, e->v[i].line, e->v[i].name,
                        "line %u sets it again, and counts; remove one of them", last->line);
}

void tb_envfile_check(const struct tb_envfile *e, struct tb_findings *f)
{
    if (e->nul || e->not_utf8) {
        tb_findings_add(f, TB_FINDING_ERROR, e->odd_line, "",
                        e->nul
                            ? "a NUL byte makes systemd refuse the whole file; remove it (was it saved as "
                              "UTF-16? save it as UTF-8)"
                            : "a character is not UTF-8, which makes systemd refuse the whole file; save it "
                              "as UTF-8");
        return;
    }
    if (e->comment_line > 0)
        tb_findings_add(
            f, TB_FINDING_WARNING, e->comment_line, "",
            "the comment ends with a backslash: systemd before 254 takes the next line for a part "
            "of it; remove the backslash");
    for (size_t i = 0; i < e->n; i++) {
        const struct tb_envfile_entry *one = &e->v[i];

        if (!one->value) {
            envfile_check_line(one, f);
        } else if (!tb_envfile_name_valid(one->name)) {
            envfile_check_name(one, f);
        } else {
            envfile_check_value(one, f);
            envfile_check_again(e, i, f);
        }
    }
}
