/* SPDX-License-Identifier: Apache-2.0 */
/* A secret may stand in a text as a program wrote it for another one: %3D, \u0026, \/, \x2d, base64. */
#ifndef TB_SUPPORT_UNESCAPE_H
#define TB_SUPPORT_UNESCAPE_H

#include <stdbool.h>

#include "common/buf.h"

/* Of one line. False: nothing in it is escaped, *out is as it was. Otherwise the line without escapes, of
 * several layers if there are. What would be a control character stays as it is. */
bool unescape_line(const char *p, size_t len, struct tb_buf *out);

/* What of the base64 of text is the same whatever stands behind it and shift bytes (0 to 2) stand before.
 * The buffer is cleared first. */
int unescape_base64_of(const char *text, size_t len, unsigned shift, struct tb_buf *out);

#endif
