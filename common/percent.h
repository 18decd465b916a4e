/* SPDX-License-Identifier: Apache-2.0 */
/* Percent encoding (RFC 3986, 2.1). */
#ifndef TB_PERCENT_H
#define TB_PERCENT_H

#include <stddef.h>

#define TB_PERCENT_CHAR_MAX 4

/* One byte of a URL's path or query: as it is when it is unreserved or in keep, else %XX. Returns the length
 * of out, which ends with NUL. */
size_t tb_percent_encode_char(char c, const char *keep, char out[static TB_PERCENT_CHAR_MAX]);

#endif
