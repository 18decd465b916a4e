/* SPDX-License-Identifier: Apache-2.0 */
/* The byte order of TPM 2.0 (TCG TPM 2.0 Library, part 2): integers are big-endian, a TPM2B has a length of
 * two bytes in front. An overrun sticks: what follows reads as zeros, and is looked at once, at the end. */
#ifndef TB_TPM_WIRE_H
#define TB_TPM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct tb_tpm_span {
    const uint8_t *p;
    size_t n;
};

struct tb_tpm_reader {
    const uint8_t *p;
    size_t n; /* bytes that are left */
    bool bad;
};

static inline struct tb_tpm_reader tb_tpm_reader(struct tb_tpm_span s)
{
    return (struct tb_tpm_reader){.p = s.p, .n = s.n};
}

/* n bytes; none, and bad, when there are fewer. */
static inline struct tb_tpm_span tb_tpm_take(struct tb_tpm_reader *r, size_t n)
{
    struct tb_tpm_span s = {.p = r->p, .n = n};

    if (r->bad || n > r->n) {
        r->bad = true;
        return (struct tb_tpm_span){0};
    }
    r->p += n;
    r->n -= n;
    return s;
}

static inline uint32_t tb_tpm_take_uint(struct tb_tpm_reader *r, size_t n)
{
    struct tb_tpm_span s = tb_tpm_take(r, n);
    uint32_t v = 0;

    for (size_t i = 0; i < s.n; i++)
        v = v << 8 | s.p[i];
    return v;
}

static inline uint8_t tb_tpm_take_u8(struct tb_tpm_reader *r)
{
    return (uint8_t)tb_tpm_take_uint(r, 1);
}

static inline uint16_t tb_tpm_take_u16(struct tb_tpm_reader *r)
{
    return (uint16_t)tb_tpm_take_uint(r, 2);
}

static inline uint32_t tb_tpm_take_u32(struct tb_tpm_reader *r)
{
    return tb_tpm_take_uint(r, 4);
}

static inline struct tb_tpm_span tb_tpm_take_2b(struct tb_tpm_reader *r)
{
    size_t n = tb_tpm_take_u16(r);

    return tb_tpm_take(r, n);
}

/* Everything was there, and nothing is left. */
static inline bool tb_tpm_is_read(const struct tb_tpm_reader *r)
{
    return !r->bad && r->n == 0;
}

#define TB_TPM_MESSAGE_MAX 4096 /* of a command and a response */

struct tb_tpm_writer {
    uint8_t b[TB_TPM_MESSAGE_MAX];
    size_t n;
    bool bad;
};

static inline void tb_tpm_put(struct tb_tpm_writer *w, const void *p, size_t n)
{
    if (w->bad || n > sizeof(w->b) - w->n) {
        w->bad = true;
        return;
    }
    if (n > 0)
        memcpy(w->b + w->n, p, n);
    w->n += n;
}

static inline void tb_tpm_put_u8(struct tb_tpm_writer *w, uint8_t v)
{
    tb_tpm_put(w, &v, 1);
}

static inline void tb_tpm_put_u16(struct tb_tpm_writer *w, uint16_t v)
{
    const uint8_t b[] = {(uint8_t)(v >> 8), (uint8_t)v};

    tb_tpm_put(w, b, sizeof(b));
}

static inline void tb_tpm_put_u32(struct tb_tpm_writer *w, uint32_t v)
{
    tb_tpm_put_u16(w, (uint16_t)(v >> 16));
    tb_tpm_put_u16(w, (uint16_t)v);
}

static inline void tb_tpm_put_2b(struct tb_tpm_writer *w, const void *p, size_t n)
{
    tb_tpm_put_u16(w, (uint16_t)n);
    tb_tpm_put(w, p, n);
}

#endif
