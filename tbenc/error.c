/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>

#include "tbenc/internal.h"

static _printf_(4, 0) void error_fill(struct tbenc_error *e, uint64_t chunk, size_t at, const char *fmt,
                                      va_list ap)
{
    e->chunk = chunk;
    /* A message that does not fit is cut: it is for people. */
    (void)vsnprintf(e->message + at, sizeof(e->message) - at, fmt, ap);
}

int tbenc_fail(struct tbenc_error *e, int rc, const char *fmt, ...)
{
    va_list ap;

    if (!e)
        return rc;
    va_start(ap, fmt);
    error_fill(e, TBENC_NO_CHUNK, 0, fmt, ap);
    va_end(ap);
    return rc;
}

int tbenc_fail_chunk(struct tbenc_error *e, int rc, uint64_t chunk, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (!e)
        return rc;
    n = snprintf(e->message, sizeof(e->message), "chunk %llu: ", (unsigned long long)chunk);
    va_start(ap, fmt);
    error_fill(e, chunk, (size_t)n, fmt, ap);
    va_end(ap);
    return rc;
}
