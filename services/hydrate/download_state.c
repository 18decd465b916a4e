/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/download_state.h"

#include <stdarg.h>

#include "common/io.h"
#include "common/units.h"

void download_wake(struct download_state *x)
{
    for (unsigned i = 0; i < x->n_workers; i++)
        (void)curl_multi_wakeup(x->workers[i].multi);
}

/* Starts nothing from here on. */
static void download_wind_down(struct download_state *x, bool now)
{
    uint64_t until = tb_now_monotonic_us() + (now ? 0 : DOWNLOAD_DRAIN_MS * 1000ULL);

    if (x->drain_us == 0 || now)
        x->drain_us = until;
    download_wake(x);
}

void download_give_up(struct download_state *x, bool now, int code, const char *fmt, ...)
{
    char text[TB_OUTCOME_REASON_MAX];
    va_list ap;

    download_wind_down(x, now);
    if (x->outcome.code != 0)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    tb_outcome_set(&x->outcome, code, "%s", text);
}

void download_give_up_io(struct download_state *x, int r, const char *what)
{
    download_wind_down(x, true);
    if (x->outcome.code != 0)
        return;
    hydrate_outcome_io(&x->outcome, r, what, partial_path(x->d->partial));
    if (tb_errno_is_disk(r)) /* other blocks may do */
        x->outcome.code = HYDRATE_DAMAGED;
}
