/* SPDX-License-Identifier: Apache-2.0 */
/* What tb-decrypt wishes for (common/want.h), noticed as soon as it is written. Foreign bytes: what does not
 * fit to the download is ignored. */
#ifndef TB_HYDRATE_WISHES_H
#define TB_HYDRATE_WISHES_H

#include "common/want.h"
#include "hydrate/record.h"

struct wishes {
    const char *run_dir; /* TB_RUN_DIR, borrowed; NULL: there are never any */
    int fd;              /* inotify; -1: none */
    bool watched;        /* tb-decrypt's directory, which may come later */
    bool ready;          /* something was written there: poll() says so of fd */
    struct tb_want want;
};

void wishes_init(struct wishes *w, const char *run_dir);
void wishes_clear(struct wishes *w);
/* Looks again if there may be others. true: it did, and there are some. */
bool wishes_refresh(struct wishes *w, const struct partial_identity *id);
/* How many are of records once more. */
unsigned wishes_repairs(const struct wishes *w);

#endif
