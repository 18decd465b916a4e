/* SPDX-License-Identifier: Apache-2.0 */
/* BLAKE2b (RFC 7693) without a key, of any length of digest: OpenSSL before 3.2 has it with 64 bytes only,
 * and a secret key of minisign holds a checksum of 32, which is another function. For a few bytes, not for
 * speed. */
#ifndef TBPKG_ASSET_BLAKE2B_H
#define TBPKG_ASSET_BLAKE2B_H

#include <stddef.h>
#include <stdint.h>

/* out_len: 1 to 64. What is in the state is wiped. */
void blake2b(const void *in, size_t len, uint8_t *out, size_t out_len);

#endif
