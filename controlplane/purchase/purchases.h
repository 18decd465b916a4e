/* SPDX-License-Identifier: Apache-2.0 */
/* The work behind a notification, on a thread of its own: applications that are due are looked up and
 * settled. What is due stands in the database, so that it survives a restart, and any replica may do it. */
#ifndef CP_PURCHASES_WORK_H
#define CP_PURCHASES_WORK_H

#include "controlplane/purchase/arm.h"
#include "controlplane/store/datadir.h"

#define CP_SIGS_MAX 4 /* one, and those that it replaces */
#define CP_SIG_CHARS_MIN 16

struct cp_purchases;

/* sigs: the text of a file, a value of `sig` on each line. arm NULL: notifications count as they come; else
 * it becomes the purchases'. place outlives it. -EINVAL with a reason in err. */
int cp_purchases_start(const struct cp_place *place, const char *sigs, struct cp_arm *arm,
                       struct cp_purchases **ret, char err[static CP_ERR_MAX]);
/* Ends what it is at. NULL is fine. */
struct cp_purchases *cp_purchases_stop(struct cp_purchases *p);

/* In constant time. */
bool cp_purchases_sig_is(const struct cp_purchases *p, const char *sig);
/* Resource Manager; NULL: it is not asked. Any thread. */
struct cp_arm *cp_purchases_arm(const struct cp_purchases *p);
/* Something is due now. */
void cp_purchases_nudge(struct cp_purchases *p);

#endif
