/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/http/error.h"

#include <stdarg.h>

void tb_http_error_set(struct tb_http_error *e, int status, const char *code, const char *fmt, ...)
{
    va_list ap;
    size_t n = 0;

    *e = (struct tb_http_error){.status = status};
    for (const char *p = code; *p && n < sizeof(e->code) - 1; p++) {
        char c = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;

        e->code[n++] = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ? c : '_';
    }
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
}
