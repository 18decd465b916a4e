/* SPDX-License-Identifier: Apache-2.0 */
/* How fast a count grows now: over the last seconds. What was counted before, and is counted once more after
 * a step back, is no progress. No clock of its own. */
#ifndef TB_RATE_H
#define TB_RATE_H

#include <stdint.h>

#define TB_RATE_SAMPLES 16
#define TB_RATE_EVERY_US 500000ULL /* between two samples: so the rate is one over 8 seconds at most */

struct tb_rate { /* zero-initialise */
    struct {
        uint64_t us, count;
    } at[TB_RATE_SAMPLES]; /* a ring */
    unsigned n;            /* samples ever taken */
    uint64_t most;
};

/* The count at that time of a clock that does not go back. As often as you like. */
void tb_rate_note(struct tb_rate *r, uint64_t count, uint64_t now_us);
/* Per second; 0: nothing came, or there was no time to see any. */
uint64_t tb_rate_get(const struct tb_rate *r, uint64_t now_us);

#endif
