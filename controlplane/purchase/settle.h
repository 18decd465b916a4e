/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of an application, made into a contract or the end of one: one transaction. */
#ifndef CP_SETTLE_H
#define CP_SETTLE_H

#include "controlplane/purchase/arm.h"

struct cp_settlement {
    const char *application_id;
    uint64_t claimed_check_us; /* check_us of the claim: another one now means that more has come */
    bool verify;               /* Resource Manager was asked */
    const char *failure;       /* it did not answer; NULL: it did */
    struct cp_arm_application arm;
    uint64_t now_us;
    /* set anew by each try: for the log, "" when nothing changed */
    char said[512];
    bool warn;
    enum cp_application_state state;
};

/* ctx: a struct cp_settlement. For cp_store_transact(). */
int cp_purchase_settle(struct cp_store *s, void *ctx);

#endif
