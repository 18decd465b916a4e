/* SPDX-License-Identifier: Apache-2.0 */
/* The hours that usage goes to. A step function from (both clocks, what others know of the time) to the
 * time that is billed by; no I/O and no clock of its own. docs/billing.md, "The clock".
 *
 * The billed time is that of the wall clock when it was last known good, carried on by CLOCK_BOOTTIME,
 * which nobody sets and which goes on while the machine sleeps. The wall clock is known good
 *
 *   1. while it agrees with the Date of the control plane's last answer in this boot, carried on likewise;
 *   2. where there is no such Date: while a program keeps it (systemd-timesyncd's mark), until it is
 *      stepped;
 *   3. where there is neither: as it was found first in this boot.
 *
 * A wall clock that disagrees with the first Date of the boot was never good, and the Date is the time.
 * Without an answer of the control plane in this boot there is no lease and nothing is served, so all
 * usage is of a time that is known. A later Date that disagrees with both is the control plane's own
 * trouble. */
#ifndef TB_BILLING_CLOCK_H
#define TB_BILLING_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "common/io.h"
#include "common/units.h"

/* Less is no step: a leap second, a slow clock until its daemon has corrected it, the second of a Date, a
 * slow answer. */
#define BILLING_CLOCK_TOLERANCE_US (60 * TB_USEC_PER_SEC)
/* At the boot the wall clock is often wrong until a program has set it, which is no news. */
#define BILLING_CLOCK_BOOT_US (180 * TB_USEC_PER_SEC)

enum billing_clock_source {
    BILLING_CLOCK_FOUND, /* 3. */
    BILLING_CLOCK_KEPT,  /* 2. */
    BILLING_CLOCK_DATE,  /* 1., or the Date itself */
    _BILLING_CLOCK_SOURCE_MAX,
};

/* At boot_us of the boot boot_id it was real_us. */
struct billing_anchor {
    char boot_id[TB_BOOT_ID_MAX];
    uint64_t boot_us, real_us;
    enum billing_clock_source source;
};

/* What there is to go by. */
struct billing_clock_input {
    char boot_id[TB_BOOT_ID_MAX];
    uint64_t boot_us, real_us; /* now */
    bool kept;                 /* a program keeps the wall clock */
    bool has_date;             /* of this boot: */
    uint64_t date_us, date_boot_us;
};

struct billing_clock {
    bool anchored, own; /* own: by this process, so in this boot */
    struct billing_anchor anchor;
    int64_t off_us; /* of the wall clock against the billed time; 0: within tolerance */
};

enum billing_clock_event {
    BILLING_CLOCK_QUIET,
    BILLING_CLOCK_STEPPED, /* off_us was 0 or another: the wall clock is not the billed time any more */
    BILLING_CLOCK_RIGHT,   /* it is again */
    BILLING_CLOCK_MOVED,   /* the billed time itself was wrong: moved_us */
};

/* Takes a look. ret_us: the billed time. *ret_save: the anchor has changed enough to be kept. moved_us:
 * how far the billed time moved with BILLING_CLOCK_MOVED. */
enum billing_clock_event billing_clock_look(struct billing_clock *c, const struct billing_clock_input *in,
                                            uint64_t *ret_us, int64_t *ret_moved_us, bool *ret_save);
/* The billed time at a boottime after a look. */
uint64_t billing_clock_at(const struct billing_clock *c, uint64_t boot_us);

/* "found", "kept", "date"; for the ledger. */
const char *billing_clock_source_name(enum billing_clock_source s);
bool billing_clock_source_from_name(const char *name, enum billing_clock_source *ret);

#endif
