/* SPDX-License-Identifier: Apache-2.0 */
#include "hydrate/outcome.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int hydrate_outcome_io(struct tb_outcome *o, int r, const char *what, const char *path)
{
    const char *remedy = "";

    assert(r < 0);
    if (r == -ENOSPC || r == -EDQUOT)
        remedy =
            "; free space there or set TB_TARGET_DIR to a larger disk; what is finished is kept and resumed";
    else if (r == -EACCES || r == -EPERM || r == -EROFS)
        remedy = "; make the directory writable for the user of tb-hydrate";
    return tb_outcome_set(o, TB_EXIT_IOERR, "%s %s: %s%s", what, path, strerror(-r), remedy);
}
