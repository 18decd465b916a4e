/* SPDX-License-Identifier: Apache-2.0 */
#include "common/log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <syslog.h>
#include <systemd/sd-journal.h>

#include "common/events.h"
#include "common/text.h"

#define LOG_FIELDS_MAX 16
#define LOG_LINE_MAX 2048

static const char *log_program = "trustbridge";
static enum tb_log_level log_max = TB_LOG_INFO;
static bool log_journal;
static const char *log_fault; /* event of warnings and errors that are none of their own */

static const char *const level_name[_TB_LOG_LEVEL_MAX] = {"error", "warning", "info", "debug"};
static const int level_priority[_TB_LOG_LEVEL_MAX] = {LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG};

/* $JOURNAL_STREAM is "device:inode" of the stream systemd gave the service; stderr is the journal when they
 * agree. */
static bool stderr_is_journal(void)
{
    const char *s = getenv("JOURNAL_STREAM");
    unsigned long long dev, ino;
    struct stat st;

    return s && sscanf(s, "%llu:%llu", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == dev && st.st_ino == ino;
}

/* The daemons whose messages units/trustbridge.catalog explains. */
static const struct {
    const char *program, *event;
} log_faults[] = {
    {"tb-attest", TB_EVENT_FAULT_ATTEST},   {"tb-authorize", TB_EVENT_FAULT_AUTHORIZE},
    {"tb-billing", TB_EVENT_FAULT_BILLING}, {"tb-decrypt", TB_EVENT_FAULT_DECRYPT},
    {"tb-hydrate", TB_EVENT_FAULT_HYDRATE}, {"tb-load", TB_EVENT_FAULT_LOAD},
    {"tb-proxy", TB_EVENT_FAULT_PROXY},     {"tb-update", TB_EVENT_FAULT_UPDATE},
    {"tb-vcek", TB_EVENT_FAULT_ATTEST},     {"tb-verify", TB_EVENT_FAULT_VERIFY},
};

void tb_log_init(const char *program)
{
    log_program = program;
    log_fault = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(log_faults); i++)
        if (strcmp(log_faults[i].program, program) == 0)
            log_fault = log_faults[i].event;
    log_journal = stderr_is_journal();
}

void tb_log_set_level(enum tb_log_level level)
{
    log_max = level;
}

enum tb_log_level tb_log_level_from_string(const char *s)
{
    if (strcasecmp(s, "debug") == 0)
        return TB_LOG_DEBUG;
    if (strcasecmp(s, "info") == 0)
        return TB_LOG_INFO;
    if (strcasecmp(s, "warn") == 0 || strcasecmp(s, "warning") == 0)
        return TB_LOG_WARN;
    if (strcasecmp(s, "error") == 0)
        return TB_LOG_ERR;
    return _TB_LOG_LEVEL_INVALID;
}

static void log_send_journal(int level, const char *msgid, const char *const *fields, const char *message)
{
    char text[LOG_LINE_MAX + 16], priority[16], id[48], ident[64];
    struct iovec iov[4 + LOG_FIELDS_MAX];
    int n = 0;

    snprintf(text, sizeof(text), "MESSAGE=%s", message);
    snprintf(priority, sizeof(priority), "PRIORITY=%d", level_priority[level]);
    snprintf(ident, sizeof(ident), "SYSLOG_IDENTIFIER=%s", log_program);
    iov[n++] = (struct iovec){text, strlen(text)};
    iov[n++] = (struct iovec){priority, strlen(priority)};
    iov[n++] = (struct iovec){ident, strlen(ident)};
    if (msgid) {
        snprintf(id, sizeof(id), "MESSAGE_ID=%s", msgid);
        iov[n++] = (struct iovec){id, strlen(id)};
    }
    for (int i = 0; fields && fields[i] && i < LOG_FIELDS_MAX; i++)
        iov[n++] = (struct iovec){(char *)fields[i], strlen(fields[i])};
    (void)sd_journal_sendv(iov, n);
}

void tb_log_full(enum tb_log_level level, const char *msgid, const char *const *fields, const char *fmt, ...)
{
    char message[LOG_LINE_MAX];
    va_list ap;

    if (level > log_max)
        return;
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    tb_text_plain(message); /* it may quote what a server said, and end on a terminal */
    if (log_journal)
        log_send_journal(level, msgid || level > TB_LOG_WARN ? msgid : log_fault, fields, message);
    else if (level == TB_LOG_INFO)
        fprintf(stderr, "%s: %s\n", log_program, message);
    else
        fprintf(stderr, "%s: %s: %s\n", log_program, level_name[level], message);
}

int tb_log_errno(enum tb_log_level level, int r, const char *fmt, ...)
{
    char message[LOG_LINE_MAX];
    va_list ap;

    assert(r < 0);
    va_start(ap, fmt);
    vsnprintf(message, sizeof(message), fmt, ap);
    va_end(ap);
    tb_log_full(level, NULL, NULL, "%s: %s", message, strerror(-r));
    return r;
}

char *tb_url_redact(const char *url, char *out, size_t out_len)
{
    const char *host = strstr(url, "://"), *end = url + strcspn(url, "?#"), *at;
    size_t scheme, authority;

    if (!host || host >= end) {
        snprintf(out, out_len, "%.*s", (int)(end - url), url);
        return out;
    }
    host += 3;
    scheme = (size_t)(host - url);
    authority = MIN(strcspn(host, "/"), (size_t)(end - host));
    at = memrchr(host, '@', authority); /* the last: a password may hold one that should have been encoded */
    if (at)
        host = at + 1;
    snprintf(out, out_len, "%.*s%.*s", (int)scheme, url, (int)(end - host), host);
    return out;
}
