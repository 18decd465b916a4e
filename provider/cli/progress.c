/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/units.h"

#define SHORT_WORK_US (2 * TB_USEC_PER_SEC) /* leaves no lines in a log */
#define DRAW_EVERY_US (TB_USEC_PER_SEC / 10)
#define SAMPLE_EVERY_US (TB_USEC_PER_SEC / 2)
#define TELL_EVERY_US (15 * TB_USEC_PER_SEC)
#define TELL_AT_MOST_US TB_USEC_PER_SEC
#define STALLED_AFTER_S 5
#define BAR_MIN 10
#define BAR_MAX 30

static bool as_json, bar_drawn;

void cli_progress_as_json(bool on)
{
    as_json = on;
}

void cli_progress_break(void)
{
    if (bar_drawn)
        fputc('\n', stderr);
    bar_drawn = false;
}

/* -- the line ---------------------------------------------------------------------------------- */

static unsigned progress_percent(uint64_t done, uint64_t total)
{
    return total ? (unsigned)((double)MIN(done, total) * 100 / (double)total) : 0;
}

static void progress_put_time(uint64_t s, char *out, size_t size)
{
    if (s >= 3600)
        snprintf(out, size, "%" PRIu64 ":%02u:%02u", s / 3600, (unsigned)(s / 60 % 60), (unsigned)(s % 60));
    else
        snprintf(out, size, "%u:%02u", (unsigned)(s / 60), (unsigned)(s % 60));
}

/* How it goes, at three lengths: 0 is the longest. */
static void progress_put_pace(const struct progress_view *v, int brevity, char *out, size_t size)
{
    char rate[32], left[32] = "";

    tb_bytes_format(v->rate, rate, sizeof(rate));
    if (v->seconds != UINT64_MAX)
        progress_put_time(v->seconds, left, sizeof(left));
    if (v->stalled_s > 0 && v->attempt > 0)
        snprintf(out, size, brevity ? "stalled %" PRIu64 " s (%u)" : "stalled %" PRIu64 " s, retrying (%u)",
                 v->stalled_s, v->attempt);
    else if (v->stalled_s > 0)
        snprintf(out, size, "stalled %" PRIu64 " s", v->stalled_s);
    else if (brevity == 2)
        snprintf(out, size, "%s/s", rate);
    else
        snprintf(out, size, "%s/s%s%s%s", rate, *left ? ", " : "", left,
                 *left && !v->finished && brevity == 0 ? " left" : "");
}

static void progress_put_bar(const struct progress_view *v, size_t room, char *out)
{
    size_t n = MIN(room - 3, (size_t)BAR_MAX),
           full = (size_t)((double)v->done / (double)v->total * (double)n);

    *out++ = '[';
    for (size_t i = 0; i < n; i++)
        *out++ = i < full ? '#' : '.';
    memcpy(out, "] ", 3);
}

size_t progress_format(const struct progress_view *v, unsigned width, char out[static PROGRESS_TEXT_MAX])
{
    size_t most = MIN(MAX(width, (unsigned)PROGRESS_WIDTH_MIN), (unsigned)PROGRESS_TEXT_MAX) - 1, n = 0;
    char done[32], total[32], share[16] = "", pace[3][64], text[PROGRESS_TEXT_MAX];

    tb_bytes_format(v->done, done, sizeof(done));
    tb_bytes_format(v->total, total, sizeof(total));
    if (v->total)
        snprintf(share, sizeof(share), "%u %%", progress_percent(v->done, v->total));
    for (int i = 0; i < 3; i++)
        progress_put_pace(v, i, pace[i], sizeof(pace[i]));
    for (int form = 0; form < 7; form++) {
        const char *p = pace[form < 2 ? 0 : form < 4 ? 1 : 2], *s = *share ? share : done;

        if (form == 0 && v->total)
            n = (size_t)snprintf(text, sizeof(text), "%s %s of %s (%s), %s", v->verb, done, total, share, p);
        else if (form == 0)
            n = (size_t)snprintf(text, sizeof(text), "%s %s, %s", v->verb, done, p);
        else if (form == 1 || form == 2 || form == 4)
            n = (size_t)snprintf(text, sizeof(text), "%s %s, %s", v->verb, s, p);
        else
            n = (size_t)snprintf(text, sizeof(text), form == 6 ? "%s" : "%s, %s",
                                 form == 6 && v->stalled_s > 0 ? p : s, p);
        if (n <= most)
            break;
    }
    n = MIN(n, most);
    text[n] = '\0';
    out[0] = '\0';
    if (v->total && most - n >= BAR_MIN + 3)
        progress_put_bar(v, most - n, out);
    memcpy(out + strlen(out), text, n + 1);
    return strlen(out);
}

/* -- the rate ---------------------------------------------------------------------------------- */

void progress_sample(struct cli_progress *p, uint64_t now_us, uint64_t bytes)
{
    unsigned last = (p->next_sample + PROGRESS_SAMPLES - 1) % PROGRESS_SAMPLES;

    if (p->n_samples > 0 && now_us - p->samples[last].at_us < SAMPLE_EVERY_US)
        return;
    p->samples[p->next_sample].at_us = now_us;
    p->samples[p->next_sample].bytes = bytes;
    p->next_sample = (p->next_sample + 1) % PROGRESS_SAMPLES;
    p->n_samples = MIN(p->n_samples + 1, (unsigned)PROGRESS_SAMPLES);
}

uint64_t progress_rate(const struct cli_progress *p, uint64_t now_us, uint64_t bytes)
{
    for (unsigned i = p->n_samples; i > 0; i--) {
        unsigned at = (p->next_sample + PROGRESS_SAMPLES - i) % PROGRESS_SAMPLES;
        uint64_t us = now_us - p->samples[at].at_us;

        if (us > PROGRESS_SAMPLES * SAMPLE_EVERY_US && i > 1)
            continue; /* of a time that is over */
        if (us == 0 || bytes < p->samples[at].bytes)
            return 0;
        return (uint64_t)((double)(bytes - p->samples[at].bytes) * TB_USEC_PER_SEC / (double)us);
    }
    return 0;
}

/* -- showing it -------------------------------------------------------------------------------- */

static bool progress_on_terminal(void)
{
    const char *term = getenv("TERM");

    return isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
}

static unsigned progress_columns(void)
{
    struct winsize w;

    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col > 0 ? w.ws_col : 80;
}

static uint64_t progress_moved(const struct cli_progress *p)
{
    return p->done > p->there ? p->done - p->there : 0;
}

static struct progress_view progress_look(const struct cli_progress *p, uint64_t now)
{
    struct progress_view v = {.verb = p->verb, .done = p->done, .total = p->total, .seconds = UINT64_MAX};
    uint64_t stalled = (now - p->moved_us) / TB_USEC_PER_SEC;

    v.rate = progress_rate(p, now, progress_moved(p));
    if (stalled >= STALLED_AFTER_S && (p->total == 0 || p->done < p->total)) {
        v.stalled_s = stalled;
        v.attempt = p->attempt;
    } else if (v.rate > 0 && p->total > 0) {
        v.seconds = (p->total - MIN(p->done, p->total)) / v.rate;
    }
    return v;
}

/* The width is asked for each time, so a resize is followed. A terminal that became narrower has broken the
 * old line: its rows are taken back, except where it told the width too late. */
static void progress_draw(struct cli_progress *p, const struct progress_view *v)
{
    char text[PROGRESS_TEXT_MAX] = "";
    unsigned width = progress_columns();
    unsigned columns = (unsigned)progress_format(v, width, text);

    if (bar_drawn && width == p->drawn_width && strcmp(text, p->drawn) == 0)
        return;
    if (bar_drawn && p->drawn_columns > width)
        fprintf(stderr, "\033[%uA", (p->drawn_columns - 1) / width);
    p->drawn_columns = columns;
    p->drawn_width = width;
    memcpy(p->drawn, text, sizeof(text));
    fprintf(stderr, "\r%s\033[J", text);
    fflush(stderr);
    bar_drawn = true;
}

static void progress_tell_json(const struct progress_view *v)
{
    fprintf(stderr, "{\"event\":\"%s\",\"what\":\"%s\",\"done\":%" PRIu64, v->finished ? "done" : "progress",
            v->verb, v->done);
    if (v->total)
        fprintf(stderr, ",\"total\":%" PRIu64, v->total);
    fprintf(stderr, ",\"bytes_per_second\":%" PRIu64, v->rate);
    if (v->seconds != UINT64_MAX)
        fprintf(stderr, ",\"%s\":%" PRIu64, v->finished ? "seconds" : "seconds_left", v->seconds);
    if (v->stalled_s > 0)
        fprintf(stderr, ",\"stalled_seconds\":%" PRIu64 ",\"attempt\":%u", v->stalled_s, v->attempt);
    fputs("}\n", stderr);
}

static void progress_tell(struct cli_progress *p, const struct progress_view *v, uint64_t now)
{
    char text[PROGRESS_TEXT_MAX];
    struct progress_view plain = *v;

    p->told_us = now;
    p->told_percent = progress_percent(v->done, v->total) / 10 * 10;
    if (as_json) {
        progress_tell_json(v);
        return;
    }
    (void)progress_format(&plain, PROGRESS_TEXT_MAX, text);
    fprintf(stderr, "%s\n", *text == '[' ? strchr(text, ']') + 2 : text);
}

static bool progress_tell_due(const struct cli_progress *p, uint64_t now)
{
    uint64_t since = now - p->told_us;

    if (as_json)
        return since >= TELL_AT_MOST_US;
    return now - p->start_us >= SHORT_WORK_US &&
           (since >= TELL_EVERY_US ||
            (since >= TELL_AT_MOST_US && progress_percent(p->done, p->total) >= p->told_percent + 10));
}

struct cli_progress cli_progress_start(bool quiet, const char *verb, uint64_t total)
{
    uint64_t now = tb_now_monotonic_us();
    struct cli_progress p = {
        .verb = verb, .total = total, .quiet = quiet, .start_us = now, .moved_us = now, .told_us = now};

    progress_sample(&p, now, 0);
    return p;
}

int cli_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct cli_progress *p = ctx;
    uint64_t now = tb_now_monotonic_us();
    struct progress_view v;

    if (p->quiet)
        return 0;
    if (p->total == 0)
        p->total = total;
    if (done > p->done)
        p->moved_us = now;
    p->done = MAX(p->done, done);
    progress_sample(p, now, progress_moved(p));
    v = progress_look(p, now);
    if (progress_on_terminal()) {
        if (now - p->drawn_us >= DRAW_EVERY_US) {
            p->drawn_us = now;
            progress_draw(p, &v);
        }
    } else if (progress_tell_due(p, now)) {
        progress_tell(p, &v, now);
    }
    return 0;
}

void cli_progress_finish(struct cli_progress *p, uint64_t done)
{
    uint64_t now = tb_now_monotonic_us(), us = MAX(now - p->start_us, UINT64_C(1));
    struct progress_view v = {.verb = p->verb, .done = done, .total = p->total, .finished = true};

    if (p->quiet)
        return;
    p->done = done;
    v.rate = (uint64_t)((double)progress_moved(p) * TB_USEC_PER_SEC / (double)us);
    v.seconds = us / TB_USEC_PER_SEC;
    if (progress_on_terminal()) {
        progress_draw(p, &v);
        cli_progress_break();
    } else if (as_json || us >= SHORT_WORK_US) {
        progress_tell(p, &v, now);
    }
}
