/* SPDX-License-Identifier: Apache-2.0 */
#include "common/backoff.h"

#include <assert.h>

#include "common/macros.h"
#include "common/secret.h"

uint64_t tb_backoff_next_ms(struct tb_backoff *b, int64_t retry_after_ms)
{
    uint64_t ms = b->attempt < 20 ? b->base_ms << b->attempt : b->cap_ms;
    uint16_t noise = 0;

    assert(b->base_ms > 0 && b->base_ms <= b->cap_ms);
    ms = MIN(ms, b->cap_ms);
    b->attempt++;
    (void)tb_random(&noise, sizeof(noise));
    ms = ms * 9 / 10 + ms / 5 * noise / 65536;
    if (retry_after_ms >= 0)
        ms = MAX(ms, (uint64_t)retry_after_ms);
    return ms;
}
