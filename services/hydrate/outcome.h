/* SPDX-License-Identifier: Apache-2.0 */
/* How a step of tb-hydrate ended, beyond what common/outcome.h has. */
#ifndef TB_HYDRATE_OUTCOME_H
#define TB_HYDRATE_OUTCOME_H

#include "common/outcome.h"

/* Codes inside the program, beyond enum tb_exit. */
enum {
    HYDRATE_CHANGED = 256, /* the blob is another one than when the download began */
    HYDRATE_STOPPED,       /* SIGTERM or SIGINT */
};

/* Where (redacted), status, " to " or "", and scheme and host. Not a matter of trying again. */
#define HYDRATE_REDIRECTED                                                                                   \
    "%s is answered with a redirect (status %ld%s%s), which is not followed as the URL is a secret; "        \
    "register "                                                                                              \
    "the asset with the URL of the storage itself"

/* For a failed system call on a path: r is a negative errno, a full disk gets its remedy. Returns
 * TB_EXIT_IOERR. */
int hydrate_outcome_io(struct tb_outcome *o, int r, const char *what, const char *path);

#endif
