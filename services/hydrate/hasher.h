/* SPDX-License-Identifier: Apache-2.0 */
/* SHA-256 of a file while it still grows: a thread follows the gapless prefix, reading back what was just
 * written (it is in the page cache). The thread asks for a higher priority, because on few cores it is
 * what everybody waits for. */
#ifndef TB_HYDRATE_HASHER_H
#define TB_HYDRATE_HASHER_H

#include <stdint.h>

#include "common/macros.h"

#define SHA256_BYTES 32

struct hasher;

/* Hashes the first `size` bytes of fd (kept by reference, must outlive the hasher) as far as
 * hasher_advance() allows. */
int hasher_start(int fd, uint64_t size, struct hasher **ret);
/* Bytes [0, prefix) are written. Never goes back. */
void hasher_advance(struct hasher *h, uint64_t prefix);
/* Bytes hashed so far. */
uint64_t hasher_done(struct hasher *h);
/* Becomes readable once the digest is there or the thread failed. Owned by the hasher. */
int hasher_fd(const struct hasher *h);
/* After hasher_fd() is readable: 0 and the digest, or -errno of reading (-ENODATA: the file is shorter). */
int hasher_result(struct hasher *h, uint8_t ret[static SHA256_BYTES]);
/* Stops the thread wherever it is. Accepts NULL, returns NULL. */
struct hasher *hasher_free(struct hasher *h);

static inline void hasher_freep(struct hasher **h)
{
    *h = hasher_free(*h);
}
#define _cleanup_hasher_ _cleanup_(hasher_freep)

#endif
