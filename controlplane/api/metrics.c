/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/api/metrics.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/macros.h"
#include "common/units.h"

#define PREFIX "trustbridge_controlplane_"

static _Atomic uint64_t metric_value[_CP_METRIC_MAX];
static _Atomic uint64_t metric_status[6]; /* 1xx to 5xx at 1 to 5 */

static const uint64_t metric_bounds_ms[] = {5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000};
static _Atomic uint64_t metric_took[ARRAY_SIZE(metric_bounds_ms) + 1], metric_took_us;

static const struct {
    const char *name, *labels, *help;
} metric_rows[] = {
#define METRIC_ROW(name, metric, labels, help) {metric, labels, help},
    CP_METRICS(METRIC_ROW)};

static _Atomic uint64_t gauge_value[_CP_GAUGE_MAX];
static _Atomic bool gauge_known;

static const struct {
    const char *name, *labels, *help;
} gauge_rows[] = {
#define GAUGE_ROW(name, metric, labels, help) {metric, labels, help},
    CP_GAUGES(GAUGE_ROW)};

void cp_gauge_set(enum cp_gauge g, uint64_t value)
{
    gauge_value[g] = value;
    gauge_known = true;
}

void cp_metric_add(enum cp_metric m)
{
    atomic_fetch_add_explicit(&metric_value[m], 1, memory_order_relaxed);
}

void cp_metric_answered(unsigned status, uint64_t took_us)
{
    size_t i = 0;

    while (i < ARRAY_SIZE(metric_bounds_ms) && took_us > metric_bounds_ms[i] * 1000)
        i++;
    atomic_fetch_add_explicit(&metric_took[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric_took_us, took_us, memory_order_relaxed);
    atomic_fetch_add_explicit(&metric_status[MIN(status / 100, 5U)], 1, memory_order_relaxed);
}

static void metric_head(FILE *f, const char *name, const char *kind, const char *help)
{
    fprintf(f, "# HELP " PREFIX "%s %s\n# TYPE " PREFIX "%s %s\n", name, help, name, kind);
}

static void metric_print_rows(FILE *f)
{
    for (size_t i = 0; i < ARRAY_SIZE(metric_rows); i++) {
        if (*metric_rows[i].help)
            metric_head(f, metric_rows[i].name, "counter", metric_rows[i].help);
        fprintf(f, PREFIX "%s{%s} %llu\n", metric_rows[i].name, metric_rows[i].labels,
                (unsigned long long)metric_value[i]);
    }
}

static void metric_print_gauges(FILE *f)
{
    for (size_t i = 0; gauge_known && i < ARRAY_SIZE(gauge_rows); i++) {
        if (*gauge_rows[i].help)
            metric_head(f, gauge_rows[i].name, "gauge", gauge_rows[i].help);
        fprintf(f, PREFIX "%s%s %llu\n", gauge_rows[i].name, gauge_rows[i].labels,
                (unsigned long long)gauge_value[i]);
    }
}

static void metric_print_answers(FILE *f)
{
    unsigned long long sum = 0;

    metric_head(f, "answers_total", "counter", "Answers, by status.");
    for (int i = 2; i <= 5; i++)
        fprintf(f, PREFIX "answers_total{code=\"%dxx\"} %llu\n", i, (unsigned long long)metric_status[i]);
    metric_head(f, "answer_seconds", "histogram", "From the end of a request to its answer.");
    for (size_t i = 0; i < ARRAY_SIZE(metric_bounds_ms); i++) {
        sum += metric_took[i];
        fprintf(f, PREFIX "answer_seconds_bucket{le=\"%g\"} %llu\n", (double)metric_bounds_ms[i] / 1000, sum);
    }
    sum += metric_took[ARRAY_SIZE(metric_bounds_ms)];
    fprintf(f, PREFIX "answer_seconds_bucket{le=\"+Inf\"} %llu\n", sum);
    fprintf(f, PREFIX "answer_seconds_sum %g\n" PREFIX "answer_seconds_count %llu\n",
            (double)metric_took_us / (double)TB_USEC_PER_SEC, sum);
}

char *cp_metrics_text(void)
{
    char *text = NULL;
    size_t len;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return NULL;
    metric_print_rows(f);
    metric_print_gauges(f);
    metric_print_answers(f);
    if (fclose(f) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
