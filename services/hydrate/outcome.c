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

const char *hydrate_redirect_text(const char *where, long status, const char *to,
                                  char out[static TB_OUTCOME_REASON_MAX])
{
    snprintf(out, TB_OUTCOME_REASON_MAX,
             "%s is answered with a redirect (status %ld%s%s), which is not followed as the URL is a secret; "
             "register the asset with the URL of the storage itself",
             where, status, *to ? " to " : "", to);
    return out;
}
