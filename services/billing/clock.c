/* SPDX-License-Identifier: Apache-2.0 */
#include "billing/clock.h"

#include <assert.h>
#include <string.h>

static const char *const source_names[_BILLING_CLOCK_SOURCE_MAX] = {
    [BILLING_CLOCK_FOUND] = "found", [BILLING_CLOCK_KEPT] = "kept", [BILLING_CLOCK_DATE] = "date"};

const char *billing_clock_source_name(enum billing_clock_source s)
{
    assert((unsigned)s < _BILLING_CLOCK_SOURCE_MAX);
    return source_names[s];
}

bool billing_clock_source_from_name(const char *name, enum billing_clock_source *ret)
{
    for (int s = 0; s < _BILLING_CLOCK_SOURCE_MAX; s++)
        if (strcmp(name, source_names[s]) == 0) {
            *ret = (enum billing_clock_source)s;
            return true;
        }
    return false;
}

static int64_t clock_difference(uint64_t a, uint64_t b)
{
    return (int64_t)(a - b);
}

static bool clock_agrees(uint64_t a, uint64_t b)
{
    return MAX(a, b) - MIN(a, b) <= BILLING_CLOCK_TOLERANCE_US;
}

static bool clock_of_this_boot(const struct billing_anchor *a, const struct billing_clock_input *in)
{
    return *a->boot_id && strcmp(a->boot_id, in->boot_id) == 0 && a->boot_us <= in->boot_us;
}

uint64_t billing_clock_at(const struct billing_clock *c, uint64_t boot_us)
{
    assert(c->anchored);
    return c->anchor.real_us + (boot_us - c->anchor.boot_us);
}

/* The Date, carried on to now; 0: none. */
static uint64_t clock_date_now(const struct billing_clock_input *in)
{
    return in->has_date && in->date_boot_us <= in->boot_us ? in->date_us + (in->boot_us - in->date_boot_us)
                                                           : 0;
}

/* What the time is, and how that is known. here: the anchor is of this boot, and says `carried`. Where the
 * wall clock is good it is followed, so that what its daemon corrects little by little never adds up to a
 * step. */
static uint64_t clock_judge(const struct billing_clock *c, const struct billing_clock_input *in, bool here,
                            uint64_t carried, enum billing_clock_source *ret)
{
    uint64_t date = clock_date_now(in);

    *ret = BILLING_CLOCK_DATE;
    if (date && clock_agrees(date, in->real_us))
        return in->real_us;
    if (date && here && clock_agrees(date, carried))
        return carried;
    if (date && (!here || c->anchor.source == BILLING_CLOCK_FOUND))
        return date;
    *ret = here ? c->anchor.source : in->kept ? BILLING_CLOCK_KEPT : BILLING_CLOCK_FOUND;
    if (!here)
        return in->real_us;
    if (in->kept && c->anchor.source == BILLING_CLOCK_FOUND) { /* that program has set it now */
        *ret = BILLING_CLOCK_KEPT;
        return in->real_us;
    }
    return !date && clock_agrees(carried, in->real_us) ? in->real_us : carried;
}

/* off_us: of the wall clock against the billed time, 0 within the tolerance. */
static enum billing_clock_event clock_tell(struct billing_clock *c, int64_t off_us)
{
    int64_t before = c->off_us;
    uint64_t tolerance = BILLING_CLOCK_TOLERANCE_US;
    uint64_t changed = (uint64_t)(off_us > before ? off_us - before : before - off_us);

    c->off_us = off_us;
    if (off_us == 0)
        return before == 0 ? BILLING_CLOCK_QUIET : BILLING_CLOCK_RIGHT;
    return before == 0 || changed > tolerance ? BILLING_CLOCK_STEPPED : BILLING_CLOCK_QUIET;
}

enum billing_clock_event billing_clock_look(struct billing_clock *c, const struct billing_clock_input *in,
                                            uint64_t *ret_us, int64_t *ret_moved_us, bool *ret_save)
{
    bool here = c->anchored && (c->own || clock_of_this_boot(&c->anchor, in));
    uint64_t carried = here ? billing_clock_at(c, in->boot_us) : 0, now;
    enum billing_clock_source source;
    enum billing_clock_event told;
    int64_t moved;

    now = clock_judge(c, in, here, carried, &source);
    moved = here ? clock_difference(now, carried) : 0;
    *ret_save = !here || source != c->anchor.source || moved > (int64_t)TB_USEC_PER_SEC ||
                moved < -(int64_t)TB_USEC_PER_SEC;
    if (*ret_save) {
        c->anchor = (struct billing_anchor){.boot_us = in->boot_us, .real_us = now, .source = source};
        memcpy(c->anchor.boot_id, in->boot_id, sizeof(c->anchor.boot_id));
        c->anchored = true;
    }
    c->own = true;
    *ret_us = now;
    *ret_moved_us = moved;
    if (in->boot_us < BILLING_CLOCK_BOOT_US)
        return BILLING_CLOCK_QUIET;
    told = clock_tell(c, clock_agrees(now, in->real_us) ? 0 : clock_difference(in->real_us, now));
    if (told == BILLING_CLOCK_QUIET && here && !clock_agrees(now, carried))
        return BILLING_CLOCK_MOVED;
    return told;
}
