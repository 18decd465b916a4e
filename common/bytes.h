/* SPDX-License-Identifier: Apache-2.0 */
/* Eight bytes looked at together, as one number: what is done with each byte of a text is done in an eighth
 * of the steps. */
#ifndef TB_BYTES_H
#define TB_BYTES_H

#include <stdint.h>
#include <string.h>

#define TB_EACH_BYTE(v) ((v)*0x0101010101010101ULL)

static inline uint64_t tb_bytes_load(const char *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

/* Not 0 when one of the bytes is 0. */
static inline uint64_t tb_bytes_zero(uint64_t v)
{
    return (v - TB_EACH_BYTE(1ULL)) & ~v & TB_EACH_BYTE(0x80ULL);
}

/* Not 0 when one of the bytes is c. */
static inline uint64_t tb_bytes_have(uint64_t v, unsigned char c)
{
    return tb_bytes_zero(v ^ TB_EACH_BYTE((uint64_t)c));
}

/* Not 0 when one of the bytes is below 0x20. */
static inline uint64_t tb_bytes_control(uint64_t v)
{
    return tb_bytes_zero(v & TB_EACH_BYTE(0xe0ULL));
}

#endif
