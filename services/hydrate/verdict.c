/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/verdict.h"

#include <stdarg.h>
#include <string.h>

int verdict_set(struct verdict *v, int code, const char *fmt, ...)
{
    va_list ap;

    v->code = code;
    va_start(ap, fmt);
    vsnprintf(v->message, sizeof(v->message), fmt, ap);
    va_end(ap);
    return code;
}

int verdict_io(struct verdict *v, int r, const char *what, const char *path)
{
    const char *remedy = "";

    if (r == -ENOSPC || r == -EDQUOT)
        remedy =
            "; free space there or set TB_TARGET_DIR to a larger disk; what is finished is kept and resumed";
    else if (r == -EACCES || r == -EPERM || r == -EROFS)
        remedy = "; make the directory writable for the user of tb-hydrate";
    return verdict_set(v, TB_EXIT_IOERR, "%s %s: %s%s", what, path, strerror(-r), remedy);
}
