/* SPDX-License-Identifier: Apache-2.0 */
#include "common/notify.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "common/fdpass.h"
#include "common/io.h"
#include "common/log.h"
#include "common/text.h"
#include "common/units.h"

#define BAR_WIDTH 30
#define BAR_EVERY_US 100000
#define STATUS_EVERY_US TB_USEC_PER_SEC
#define LINE_EVERY_US (15 * TB_USEC_PER_SEC)
#define LINE_AT_MOST_US TB_USEC_PER_SEC
/* As TimeoutStartSec=: longer than it takes to notice a stalled connection and to try again. */
#define EXTEND_US (120 * TB_USEC_PER_SEC)

void tb_notify_ready(const char *fmt, ...)
{
    char status[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(status, sizeof(status), fmt, ap);
    va_end(ap);
    tb_text_plain(status); /* systemctl shows it; a newline would begin another assignment */
    (void)sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void tb_notify_status(const char *fmt, ...)
{
    char status[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(status, sizeof(status), fmt, ap);
    va_end(ap);
    tb_text_plain(status);
    (void)sd_notifyf(0, "STATUS=%s", status);
}

void tb_notify_stopping(void)
{
    (void)sd_notify(0, "STOPPING=1");
}

static int keep_make(const char *name, const char *text, size_t len)
{
    _cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int r = fd < 0 ? -errno : tb_write_full(fd, text, len);

    if (r >= 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
        r = -errno;
    return r < 0 ? r : TAKE_FD(fd);
}

void tb_notify_keep(const char *name, const char *text, size_t len)
{
    _cleanup_close_ int fd = text ? keep_make(name, text, len) : -1;
    char add[96];

    (void)sd_notifyf(0, "FDSTOREREMOVE=1\nFDNAME=%s", name);
    snprintf(add, sizeof(add), "FDSTORE=1\nFDNAME=%s", name);
    if (fd >= 0)
        (void)sd_pid_notify_with_fds(0, 0, add, &fd, 1);
}

int tb_notify_kept(const char *name, size_t max, char **ret, size_t *ret_len)
{
    int fd = tb_listen_fd(name);
    struct stat st;
    ssize_t n;
    char *text;

    if (fd < 0)
        return fd;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size > max)
        return -EFBIG;
    text = calloc(1, (size_t)st.st_size + 1);
    if (!text)
        return -ENOMEM;
    n = tb_pread_full(fd, text, (size_t)st.st_size, 0);
    if (n < 0) {
        free(text);
        return (int)n;
    }
    *ret = text;
    *ret_len = (size_t)n;
    return 0;
}

void tb_notify_watchdog(void)
{
    (void)sd_notify(0, "WATCHDOG=1");
}

uint64_t tb_notify_watchdog_us(void)
{
    uint64_t us;

    return sd_watchdog_enabled(0, &us) > 0 ? us / 2 : 0;
}

void tb_notify_extend(uint64_t usec)
{
    (void)sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%" PRIu64, usec);
}

/* "Downloading 1.2 GiB of 4.0 GiB (30 %), 310.0 MiB/s" */
static void progress_describe(const struct tb_progress *p, uint64_t done, uint64_t rate, char *out,
                              size_t len)
{
    char a[32], b[32], c[32];

    tb_bytes_format(done, a, sizeof(a));
    tb_bytes_format(p->total, b, sizeof(b));
    tb_bytes_format(rate, c, sizeof(c));
    if (p->total)
        snprintf(out, len, "%s %s of %s (%u %%), %s/s", p->verb, a, b,
                 (unsigned)((double)done * 100 / (double)p->total), c);
    else
        snprintf(out, len, "%s %s, %s/s", p->verb, a, c);
}

static void progress_draw_bar(const struct tb_progress *p, uint64_t done, const char *text)
{
    char bar[BAR_WIDTH + 1];
    int full = p->total ? (int)((double)done / (double)p->total * BAR_WIDTH) : 0;

    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    bar[BAR_WIDTH] = '\0';
    fprintf(stderr, "\r[%s] %s\033[K", bar, text);
    fflush(stderr);
}

static void progress_start(struct tb_progress *p, uint64_t done, uint64_t now)
{
    p->start_us = p->last_line_us = now;
    p->first_done = p->last_done = done;
    p->tty = isatty(STDERR_FILENO) ? 1 : 2;
    p->last_percent = p->total ? (int)((double)done * 100 / (double)p->total) : 0;
}

static bool progress_line_due(const struct tb_progress *p, uint64_t now, int percent)
{
    uint64_t since = now - p->last_line_us;

    return since >= LINE_EVERY_US || (percent >= p->last_percent + 10 && since >= LINE_AT_MOST_US);
}

void tb_progress_update(struct tb_progress *p, uint64_t done)
{
    uint64_t now = tb_now_monotonic_us(), rate;
    char text[200];
    int percent;

    if (p->tty == 0)
        progress_start(p, done, now);
    tb_rate_note(&p->rate, done, now);
    rate = tb_rate_get(&p->rate, now);
    percent = p->total ? (int)((double)done * 100 / (double)p->total) : 0;
    if (now - p->last_status_us >= STATUS_EVERY_US) {
        progress_describe(p, done, rate, text, sizeof(text));
        tb_notify_status("%s", text);
        if (done > p->last_done) {
            tb_notify_extend(EXTEND_US);
            tb_notify_watchdog();
        }
        p->last_done = done;
        p->last_status_us = now;
    }
    if (p->quiet)
        return;
    if (p->tty == 1 && now - p->last_bar_us >= BAR_EVERY_US) {
        progress_describe(p, done, rate, text, sizeof(text));
        progress_draw_bar(p, done, text);
        p->last_bar_us = now;
    } else if (p->tty == 2 && progress_line_due(p, now, percent)) {
        progress_describe(p, done, rate, text, sizeof(text));
        tb_info("%s", text);
        p->last_line_us = now;
        p->last_percent = percent - percent % 10;
    }
}

void tb_progress_finish(struct tb_progress *p, uint64_t done)
{
    uint64_t now = tb_now_monotonic_us(), us;
    char text[200];

    if (p->tty == 0)
        progress_start(p, done, now);
    us = MAX(now - p->start_us, 1U);
    progress_describe(p, done, (uint64_t)((double)(done - MIN(p->first_done, done)) * 1e6 / (double)us), text,
                      sizeof(text));
    tb_notify_status("%s", text);
    if (p->quiet)
        return;
    if (p->tty == 1) {
        progress_draw_bar(p, done, text);
        fputc('\n', stderr);
    } else {
        tb_info("%s", text);
    }
}

uint64_t tb_progress_rate(const struct tb_progress *p)
{
    return tb_rate_get(&p->rate, tb_now_monotonic_us());
}
