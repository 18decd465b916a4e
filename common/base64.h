/* SPDX-License-Identifier: Apache-2.0 */
/* Base64 as RFC 4648 section 4 has it, with padding and without line breaks. */
#ifndef TB_BASE64_H
#define TB_BASE64_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TB_BASE64_CHARS(n) (((n) + 2) / 3 * 4) /* of n bytes, without NUL */

/* out has room for TB_BASE64_CHARS(n) + 1. */
void tb_base64_encode(const void *in, size_t n, char *out);
/* Returns bytes written to out, which has room for len / 4 * 3; or -EINVAL for what no encoder writes. */
ssize_t tb_base64_decode(const char *in, size_t len, uint8_t *out);

#endif
