/* SPDX-License-Identifier: Apache-2.0 */
/* How far a long piece of work is, on standard error: on a terminal one line that fits its width and follows
 * it, elsewhere a line now and then for work of more than two seconds, or events in JSON. The rate is that of
 * the last seconds, of bytes that were really moved. */
#ifndef TBPKG_CLI_PROGRESS_H
#define TBPKG_CLI_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/macros.h"

#define PROGRESS_SAMPLES 24 /* of the last PROGRESS_SAMPLES / 2 seconds */
#define PROGRESS_TEXT_MAX 256
#define PROGRESS_WIDTH_MIN 20

struct cli_progress {
    const char *verb; /* "Encrypting" */
    uint64_t total;   /* bytes; 0: unknown */
    bool quiet;
    uint64_t there;   /* of the bytes done, those that were there before */
    unsigned attempt; /* how often something is being tried again; 0: all is well */
    /* private */
    uint64_t start_us, moved_us, drawn_us, told_us, done;
    unsigned told_percent, drawn_columns, drawn_width;
    char drawn[PROGRESS_TEXT_MAX];
    struct {
        uint64_t at_us, bytes;
    } samples[PROGRESS_SAMPLES]; /* a ring */
    unsigned n_samples, next_sample;
};

/* From now on work is told as JSON events, one on a line, where standard error is no terminal. */
void cli_progress_as_json(bool on);
/* A line of its own is about to be printed: where a bar stands, it is ended. */
void cli_progress_break(void);

struct cli_progress cli_progress_start(bool quiet, const char *verb, uint64_t total);
/* A tbenc_progress_fn; ctx is a struct cli_progress. Often, also when nothing moves. */
int cli_progress(void *ctx, uint64_t done, uint64_t total);
/* After success; an error line ends the bar itself. */
void cli_progress_finish(struct cli_progress *p, uint64_t done);

/* What is shown, as facts: for progress_format(). */
struct progress_view {
    const char *verb;
    uint64_t done, total, rate, stalled_s;
    unsigned attempt;
    bool finished;
    uint64_t seconds; /* of the whole, when finished; else those left, UINT64_MAX: not known */
};
/* One line of at most width - 1 columns, the fullest that fits; width is at least PROGRESS_WIDTH_MIN. Returns
 * its columns. */
size_t progress_format(const struct progress_view *v, unsigned width, char out[static PROGRESS_TEXT_MAX]);
/* Bytes a second over the samples; now, done: the newest. */
uint64_t progress_rate(const struct cli_progress *p, uint64_t now_us, uint64_t bytes);
void progress_sample(struct cli_progress *p, uint64_t now_us, uint64_t bytes);

#endif
