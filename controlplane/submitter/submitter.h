/* SPDX-License-Identifier: Apache-2.0 */
/* The thread of a server that bills for all of them, when it has the lock: books what machines reported, and
 * sends the hours that are over to the marketplace. docs/controlplane-design.md, "The submitter". */
#ifndef CP_SUBMITTER_H
#define CP_SUBMITTER_H

#include "controlplane/store/datadir.h"
#include "controlplane/submitter/marketplace.h"

#define CP_SUBMITTER_INTERVAL_S 60

struct cp_submitter_settings {
    struct cp_marketplace_settings marketplace;
    uint64_t interval_us, grace_us;
};
struct cp_submitter;

/* place and what the settings point to must outlive it. Tries the settings, not the marketplace. 0 or
 * -errno with words. */
int cp_submitter_start(const struct cp_place *place, const struct cp_submitter_settings *s,
                       struct cp_submitter **ret, char err[static CP_MARKETPLACE_ERR_MAX]);
/* Finishes the request under way. NULL is fine. */
struct cp_submitter *cp_submitter_stop(struct cp_submitter *b);

#endif
