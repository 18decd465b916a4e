/* SPDX-License-Identifier: Apache-2.0 */
/* The last warnings and errors of this boot in the journal's namespace. */
#include <string.h>
#include <systemd/sd-journal.h>

#include "status/status.h"

#define NAMESPACE "trustbridge"
#define SAID_LOOK_BACK 40
#define LOOK_BACK 2000 /* entries: a storm of one repeated message must not take all day */

static inline void journal_closep(sd_journal **j)
{
    sd_journal_close(*j);
}

static void error_field(sd_journal *j, const char *name, char *out, size_t size)
{
    size_t skip = strlen(name) + 1, len;
    const void *data;

    out[0] = '\0';
    if (sd_journal_get_data(j, name, &data, &len) < 0 || len < skip)
        return;
    len = MIN(len - skip, size - 1);
    memcpy(out, (const char *)data + skip, len);
    out[len] = '\0';
    for (char *p = out; *p; p++) /* a terminal shows this */
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
}

static void error_read(sd_journal *j, struct tb_error_line *e)
{
    char priority[8];

    *e = (struct tb_error_line){.times = 1};
    (void)sd_journal_get_realtime_usec(j, &e->realtime_us);
    error_field(j, "SYSLOG_IDENTIFIER", e->program, sizeof(e->program));
    error_field(j, "MESSAGE", e->message, sizeof(e->message));
    error_field(j, "PRIORITY", priority, sizeof(priority));
    e->priority = priority[0] ? priority[0] - '0' : 6;
}

/* "in 11 s" and "in 5 s" say the same. */
static bool same_but_for_numbers(const char *a, const char *b)
{
    static const char digits[] = "0123456789";

    for (; *a || *b; a++, b++) {
        a += strspn(a, digits);
        b += strspn(b, digits);
        if (*a != *b)
            return false;
        if (!*a)
            break;
    }
    return true;
}

/* A message that repeats is one line with a count. */
static struct tb_error_line *error_find_same(struct tb_snapshot *s, const struct tb_error_line *e)
{
    for (size_t i = 0; i < s->n_errors; i++)
        if (strcmp(s->errors[i].program, e->program) == 0 &&
            same_but_for_numbers(s->errors[i].message, e->message))
            return &s->errors[i];
    return NULL;
}

static int errors_match(sd_journal *j)
{
    static const char *const at_least_warning[] = {"PRIORITY=0", "PRIORITY=1", "PRIORITY=2", "PRIORITY=3",
                                                   "PRIORITY=4"};
    sd_id128_t boot;
    char text[9 + 33] = "_BOOT_ID=";
    int r = sd_id128_get_boot(&boot);

    for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(at_least_warning); i++)
        r = sd_journal_add_match(j, at_least_warning[i], 0);
    if (r >= 0)
        r = sd_journal_add_match(j, strcat(text, sd_id128_to_string(boot, (char[33]){0})), 0);
    return r;
}

static int errors_read_back(sd_journal *j, struct tb_snapshot *s)
{
    int r = errors_match(j);

    if (r >= 0)
        r = sd_journal_seek_tail(j);
    for (int i = 0; r >= 0 && i < LOOK_BACK && (r = sd_journal_previous(j)) > 0; i++) {
        struct tb_error_line e, *known;

        error_read(j, &e);
        known = error_find_same(s, &e);
        if (known)
            known->times++;
        else if (s->n_errors == TB_STATUS_ERRORS_MAX)
            break;
        else
            s->errors[s->n_errors++] = e;
    }
    return r;
}

void tb_status_read_errors(struct tb_snapshot *s)
{
    _cleanup_(journal_closep) sd_journal *j = NULL;
    int r = sd_journal_open_namespace(&j, NAMESPACE, SD_JOURNAL_LOCAL_ONLY);

    s->n_errors = 0;
    s->errors_note[0] = '\0';
    s->errors_known =
        r >= 0 && (sd_journal_has_persistent_files(j) > 0 || sd_journal_has_runtime_files(j) > 0);
    if (s->errors_known)
        r = errors_read_back(j, s);
    if (r < 0) {
        s->errors_known = false;
        snprintf(s->errors_note, sizeof(s->errors_note),
                 "the journal of namespace " NAMESPACE " cannot be read: %s", strerror(-r));
    } else if (!s->errors_known) {
        snprintf(s->errors_note, sizeof(s->errors_note),
                 geteuid() == 0
                     ? "the journal of namespace " NAMESPACE " has no file yet"
                     : "the journal of namespace " NAMESPACE
                       " is not readable for this user; run as root or as a member of group systemd-journal");
    }
}

/* --- what a unit said last ------------------------------------------------------------------------------ */

/* What remains of a death when the program has said nothing, and what is no sentence. */
static bool said_has_sense(const char *text)
{
    static const char *const empty[] = {
        "Main process exited", "Failed with result", "Scheduled restart job", "Consumed ", "state: ",
        "stopping: "};

    for (size_t i = 0; i < ARRAY_SIZE(empty); i++)
        if (strstr(text, empty[i]))
            return false;
    for (; *text; text++)
        if ((*text >= 'a' && *text <= 'z') || (*text >= 'A' && *text <= 'Z'))
            return true;
    return false;
}

/* The last error or warning of the unit's processes; else its last words of any kind. */
static void said_read(sd_journal *j, struct tb_unit *u)
{
    char match[96];
    int rank = 9;

    snprintf(match, sizeof(match), "_SYSTEMD_UNIT=%s", u->name);
    sd_journal_flush_matches(j);
    if (sd_journal_add_match(j, match, 0) < 0 || sd_journal_seek_tail(j) < 0)
        return;
    for (int i = 0; i < SAID_LOOK_BACK && rank > 3 && sd_journal_previous(j) > 0; i++) {
        struct tb_error_line e;
        int its;

        error_read(j, &e);
        its = e.priority <= 3 ? 3 : e.priority == 4 ? 4 : 6;
        if (its >= rank || !said_has_sense(e.message))
            continue;
        rank = its;
        snprintf(u->said, sizeof(u->said), "%.*s", TB_UNIT_TEXT_MAX - 1, e.message);
    }
}

static sd_journal *said_open(bool namespaced)
{
    sd_journal *j = NULL;
    int r = namespaced ? sd_journal_open_namespace(&j, NAMESPACE, SD_JOURNAL_LOCAL_ONLY)
                       : sd_journal_open(&j, SD_JOURNAL_LOCAL_ONLY);

    return r < 0 ? NULL : j;
}

void tb_status_read_said(struct tb_snapshot *s)
{
    _cleanup_(journal_closep) sd_journal *own = NULL, *machine = NULL;

    for (size_t i = 0; i < s->n_units; i++) {
        struct tb_unit *u = &s->units[i];
        bool namespaced = tb_status_in_namespace(u->name);
        sd_journal **j = namespaced ? &own : &machine;

        if (strcmp(u->active, "failed") != 0 && strncmp(u->sub, "auto-restart", 12) != 0)
            continue;
        if (!*j)
            *j = said_open(namespaced);
        if (*j)
            said_read(*j, u);
    }
}
