/* SPDX-License-Identifier: Apache-2.0 */
/* How long to wait before what failed is tried again: an exponential delay with +-10 % jitter, base, 2*base,
 * ... cap. */
#ifndef TB_BACKOFF_H
#define TB_BACKOFF_H

#include <stdint.h>

struct tb_backoff {
    uint64_t base_ms, cap_ms;
    unsigned attempt;
};
/* The next delay; counts the attempt. A Retry-After (>= 0) wins when it is longer. */
uint64_t tb_backoff_next_ms(struct tb_backoff *b, int64_t retry_after_ms);

#endif
