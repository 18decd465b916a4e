/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/units.h"
#include "provider/cli/progress.h"

#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)

static const struct progress_view running = {
    .verb = "Uploading", .done = 12 * GIB, .total = 30 * GIB, .rate = 120 * MIB, .seconds = 250};
static const struct progress_view stalled = {.verb = "Uploading",
                                             .done = 12 * GIB,
                                             .total = 30 * GIB,
                                             .stalled_s = 42,
                                             .attempt = 3,
                                             .seconds = UINT64_MAX};

static void test_what_fits_is_shown(void **state)
{
    static const struct {
        const struct progress_view *v;
        unsigned width;
        const char *text;
    } cases[] = {
        {&running, 20, "40 %, 120.0 MiB/s"},
        {&running, 33, "40 %, 120.0 MiB/s, 4:10"},
        {&running, 36, "Uploading 40 %, 120.0 MiB/s, 4:10"},
        {&running, 40, "Uploading 40 %, 120.0 MiB/s, 4:10 left"},
        {&running, 80, "[######.........] Uploading 12.0 GiB of 30.0 GiB (40 %), 120.0 MiB/s, 4:10 left"},
        {&stalled, 20, "stalled 42 s (3)"},
        {&stalled, 40, "Uploading 40 %, stalled 42 s (3)"},
        {&stalled, 50, "Uploading 40 %, stalled 42 s, retrying (3)"},
    };
    char out[PROGRESS_TEXT_MAX];

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        const char *text = cases[i].text, *got = out;

        (void)progress_format(cases[i].v, cases[i].width, out);
        if (*text != '[' && *got == '[')
            got = strchr(got, ']') + 2;
        assert_string_equal(got, text);
    }
}

/* Whatever is to be told, and on whatever terminal: one line, which leaves the last column free. */
static void test_it_fits_at_every_width(void **state)
{
    static const uint64_t numbers[] = {0, 1, 1023, 1024, 5 * GIB, UINT64_MAX / 2, UINT64_MAX};
    char out[PROGRESS_TEXT_MAX];

    for (unsigned width = PROGRESS_WIDTH_MIN; width < 400; width++)
        for (size_t a = 0; a < ARRAY_SIZE(numbers); a++)
            for (size_t b = 0; b < ARRAY_SIZE(numbers); b++)
                for (unsigned kind = 0; kind < 8; kind++) {
                    struct progress_view v = {.verb = "Encrypting",
                                              .done = MIN(numbers[a], numbers[b]),
                                              .total = numbers[b],
                                              .rate = numbers[a],
                                              .seconds = kind & 1 ? UINT64_MAX : numbers[a],
                                              .stalled_s = kind & 2 ? numbers[a] : 0,
                                              .attempt = kind & 4 ? 20 : 0};
                    size_t n = progress_format(&v, width, out);

                    assert_int_equal(n, strlen(out));
                    assert_true(n > 0 && n < width && !strchr(out, '\n'));
                }
}

/* Of the last seconds: a resume, which jumps, and a fast start are forgotten. */
static void test_the_rate_is_a_recent_one(void **state)
{
    struct cli_progress p = {.verb = "Uploading"};
    uint64_t now = 1000 * TB_USEC_PER_SEC, bytes = 0;

    progress_sample(&p, now, 0);
    for (int i = 0; i < 100; i++) { /* 10 s of 1000 MiB/s */
        now += TB_USEC_PER_SEC / 10;
        bytes += 100 * MIB;
        progress_sample(&p, now, bytes);
    }
    assert_true(progress_rate(&p, now, bytes) / MIB >= 990 && progress_rate(&p, now, bytes) / MIB <= 1000);
    for (int i = 0; i < 150; i++) { /* 15 s of 10 MiB/s */
        now += TB_USEC_PER_SEC / 10;
        bytes += MIB;
        progress_sample(&p, now, bytes);
    }
    assert_in_range(progress_rate(&p, now, bytes) / MIB, 9, 10);
    assert_int_equal(progress_rate(&p, now + 100 * TB_USEC_PER_SEC, bytes), 0); /* nothing since */
}

/* The rates of the events that are told; -1 where an event has none. */
static size_t told_rates(void (*tell)(void), long long *rates, size_t max)
{
    char line[512];
    int old = dup(STDERR_FILENO);
    FILE *f = tmpfile();
    size_t n = 0;

    assert_non_null(f);
    dup2(fileno(f), STDERR_FILENO);
    cli_progress_as_json(true);
    tell();
    cli_progress_as_json(false);
    dup2(old, STDERR_FILENO);
    close(old);
    rewind(f);
    while (n < max && fgets(line, sizeof(line), f)) {
        const char *rate = strstr(line, "\"bytes_per_second\":");

        rates[n++] = rate ? atoll(strchr(rate, ':') + 1) : -1;
    }
    fclose(f);
    return n;
}

static void tell_a_resume(void)
{
    struct cli_progress p = cli_progress_start(false, "Uploading", 30 * GIB);

    p.there = 20 * GIB;
    p.told_us = 0; /* long ago */
    cli_progress(&p, 20 * GIB, 30 * GIB);
    p.there = 30 * GIB;
    cli_progress_finish(&p, 30 * GIB);
}

static void test_what_was_there_before_is_no_rate(void **state)
{
    long long rates[3];

    assert_int_equal(told_rates(tell_a_resume, rates, ARRAY_SIZE(rates)), 2);
    assert_int_equal(rates[0], 0);
    assert_int_equal(rates[1], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_fits_is_shown),
        cmocka_unit_test(test_it_fits_at_every_width),
        cmocka_unit_test(test_the_rate_is_a_recent_one),
        cmocka_unit_test(test_what_was_there_before_is_no_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
