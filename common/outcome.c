/* SPDX-License-Identifier: Apache-2.0 */
#include "common/outcome.h"

#include <stdarg.h>
#include <stdio.h>

int tb_outcome_set(struct tb_outcome *o, int code, const char *fmt, ...)
{
    va_list ap;

    o->code = code;
    va_start(ap, fmt);
    vsnprintf(o->reason, sizeof(o->reason), fmt, ap);
    va_end(ap);
    return code;
}
