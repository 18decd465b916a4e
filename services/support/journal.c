/* SPDX-License-Identifier: Apache-2.0 */
/* The last entries of the journal, without audit records and, unless asked, without what the inference
 * server itself printed: that may hold the text of requests. */
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-journal.h>

#include "common/events.h"
#include "common/units.h"
#include "support/support.h"

#define NAMESPACE "trustbridge"
#define MESSAGE_MAX 4096

static void journal_free(sd_journal **j)
{
    sd_journal_close(*j);
}

static size_t entry_copy(sd_journal *j, const char *name, char *out, size_t size)
{
    size_t skip = strlen(name) + 1, len;
    const void *data;
    bool cut;

    out[0] = '\0';
    if (sd_journal_get_data(j, name, &data, &len) < 0 || len < skip)
        return 0;
    cut = len - skip > size - 1;
    len = MIN(len - skip, size - 1);
    memcpy(out, (const char *)data + skip, len);
    /* Half of a secret is not known as one. */
    while (cut && len > 0 && !strchr(" \n", out[len - 1]))
        len--;
    out[len] = '\0';
    for (char *p = out; *p; p++)
        if ((unsigned char)*p < ' ' && *p != '\n')
            *p = ' ';
    return len;
}

/* A line, as of `journalctl -o short-iso`; NULL when it is not for a ticket. */
static char *entry_line(sd_journal *j, bool runtime_output)
{
    char id[40], unit[64], program[64], priority[8], message[MESSAGE_MAX], time[TB_RFC3339_MAX], pid[16];
    uint64_t us = 0;
    char *line;

    entry_copy(j, "MESSAGE_ID", id, sizeof(id));
    if (strcmp(id, TB_EVENT_AUDIT) == 0)
        return NULL;
    entry_copy(j, "_SYSTEMD_UNIT", unit, sizeof(unit));
    entry_copy(j, "SYSLOG_IDENTIFIER", program, sizeof(program));
    if (!runtime_output && strcmp(unit, "tb-runtime.service") == 0 && strcmp(program, "tb-load") != 0)
        return NULL;
    entry_copy(j, "PRIORITY", priority, sizeof(priority));
    entry_copy(j, "_PID", pid, sizeof(pid));
    entry_copy(j, "MESSAGE", message, sizeof(message));
    if (message[0] == '{' && strstr(message, "\"req_sha256\"")) /* an audit record that somebody sent on */
        return NULL;
    (void)sd_journal_get_realtime_usec(j, &us);
    if (asprintf(&line, "%s %s[%s] <%s> %s\n", tb_rfc3339_format(us, 1, time), *program ? program : unit, pid,
                 priority, message) < 0)
        return NULL;
    return line;
}

static void journal_print(sd_journal *j, bool runtime_output)
{
    char **line = calloc(SUPPORT_ENTRIES, sizeof(*line));
    size_t n = 0, bytes = 0;
    int r = line ? sd_journal_seek_tail(j) : -ENOMEM;

    for (unsigned i = 0;
         r >= 0 && n < SUPPORT_ENTRIES && i < SUPPORT_ENTRIES_LOOKED && bytes < SUPPORT_PART_MAX / 2; i++) {
        r = sd_journal_previous(j);
        if (r <= 0)
            break;
        line[n] = entry_line(j, runtime_output);
        if (line[n])
            bytes += strlen(line[n++]);
    }
    if (r < 0)
        printf("(cannot be read: %s)\n", strerror(-r));
    while (n > 0) {
        fputs(line[--n], stdout);
        free(line[n]);
    }
    free(line);
}

void support_write_journal(const struct support_places *p)
{
    _cleanup_(journal_free) sd_journal *j = NULL;
    int r = p->journal ? sd_journal_open_directory(&j, p->journal, 0)
                       : sd_journal_open_namespace(&j, NAMESPACE, SD_JOURNAL_LOCAL_ONLY);

    if (!p->runtime_output)
        printf("(What the inference server itself printed is left out: --with-runtime-output)\n");
    if (r < 0)
        printf("(the journal of namespace " NAMESPACE " cannot be opened: %s)\n", strerror(-r));
    else
        journal_print(j, p->runtime_output);
}

/* What systemd says of our units, and the kernel of memory and disks. */
void support_write_system_journal(const struct support_places *p)
{
    static const char *const units[] = {
        "tb-authorize.service", "tb-billing.service", "tb-configure.service",   "tb-decrypt.service",
        "tb-decrypt.socket",    "tb-hydrate.service", "tb-keys.socket",         "tb-proxy.service",
        "tb-proxy.socket",      "tb-restore.service", "tb-proxy-health.socket", "tb-runtime.service",
        "tb-scratch.service",   "trustbridge.target"};
    _cleanup_(journal_free) sd_journal *j = NULL;
    int r = p->journal ? sd_journal_open_directory(&j, p->journal, 0)
                       : sd_journal_open(&j, SD_JOURNAL_LOCAL_ONLY);
    char match[80];

    for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(units); i++) {
        snprintf(match, sizeof(match), "UNIT=%s", units[i]);
        r = sd_journal_add_match(j, match, 0);
    }
    if (r >= 0)
        r = sd_journal_add_disjunction(j);
    if (r >= 0)
        r = sd_journal_add_match(j, "_TRANSPORT=kernel", 0);
    for (int level = 0; r >= 0 && level < 5; level++) {
        snprintf(match, sizeof(match), "PRIORITY=%d", level);
        r = sd_journal_add_match(j, match, 0);
    }
    if (r < 0)
        printf("(the system's journal cannot be opened: %s)\n", strerror(-r));
    else
        journal_print(j, true);
}
