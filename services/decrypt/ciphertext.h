/* SPDX-License-Identifier: Apache-2.0 */
/* The ciphertext as seen by who decrypts it: a file of its final size, parts of which may still be on their
 * way. */
#ifndef TB_DECRYPT_CIPHERTEXT_H
#define TB_DECRYPT_CIPHERTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "tbenc/tbenc.h"

struct tb_ciphertext {
    int fd; /* of the ciphertext; borrowed */
    void *ctx;
    /* Are the bytes from..to-1 on the disk? Any thread, at any time. NULL: all are. */
    bool (*has)(void *ctx, uint64_t from, uint64_t to);
    /* A reader waits for them. NULL: they cannot come sooner. */
    void (*want)(void *ctx, uint64_t from, uint64_t to);
    /* Until something came, at most timeout_ms. NULL where has is. For one thread. */
    void (*wait)(void *ctx, int timeout_ms);
    /* Waits for these, not for long: -ESTALE: they will not come; else it is worth another look. */
    int (*await)(void *ctx, uint64_t from, uint64_t to);
    /* That record cannot be had from the disk as it is there (-errno, as opening it said): true when it is
     * fetched again, and has() says false until it came. NULL: never. */
    bool (*damaged)(void *ctx, const struct tbenc_record *rec, int error);
};

static inline bool tb_ciphertext_has(const struct tb_ciphertext *s, uint64_t from, uint64_t to)
{
    return !s->has || s->has(s->ctx, from, to);
}

#endif
