/* SPDX-License-Identifier: Apache-2.0 */
/* How a step of tb-hydrate ended, beyond what common/outcome.h has. */
#ifndef TB_HYDRATE_OUTCOME_H
#define TB_HYDRATE_OUTCOME_H

#include "common/outcome.h"

/* Codes inside the program, beyond enum tb_exit. */
enum {
    HYDRATE_CHANGED = 256, /* the blob is another one than when the download began */
    HYDRATE_STOPPED,       /* SIGTERM or SIGINT */
    HYDRATE_NOTHING,       /* there is nothing to do */
    HYDRATE_DAMAGED, /* what was fetched is not what it should be, or the disk lost it: worth another copy */
};

/* What a redirect means here, which is not a matter of trying again. where: the URL, redacted; to: scheme and
 * host it leads to, or "". Returns out. */
const char *hydrate_redirect_text(const char *where, long status, const char *to,
                                  char out[static TB_OUTCOME_REASON_MAX]);

/* For a failed system call on a path: r is a negative errno, a full disk gets its remedy. Returns
 * TB_EXIT_IOERR. */
int hydrate_outcome_io(struct tb_outcome *o, int r, const char *what, const char *path);

#endif
