/* SPDX-License-Identifier: Apache-2.0 */
/* What follows of what is known of an application. Facts and time alone: no I/O. */
#ifndef CP_JUDGE_H
#define CP_JUDGE_H

#include "controlplane/store/purchases.h"

/* An application is missing for so long before a purchase ends of which nobody said that it was deleted. */
#define CP_MISSING_US (24 * 3600 * 1000000ULL)

/* What Azure Resource Manager says of it. */
enum cp_existence {
    CP_EXISTENCE_UNKNOWN, /* not asked: the notifications count alone */
    CP_EXISTENCE_FOUND,
    CP_EXISTENCE_GONE, /* there is no such application */
};

enum cp_wish {
    CP_WISH_GRANT, /* it is to have its contract */
    CP_WISH_END,   /* it is not */
    CP_WISH_WAIT,  /* not yet clear: look again */
};

/* provisioning: of the application, where it was found. */
enum cp_wish cp_purchase_judge(const struct cp_application *a, enum cp_existence e, const char *provisioning,
                               uint64_t now_us);

/* Why a contract is refused when its purchase ended: "application_deleted", "application_failed". */
const char *cp_purchase_end_reason(const struct cp_application *a, enum cp_existence e,
                                   const char *provisioning);
/* Whether a contract was refused for such a reason, and not by a person. */
bool cp_purchase_end_reason_is(const char *reason);

#endif
