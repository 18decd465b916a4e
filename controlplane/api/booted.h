/* SPDX-License-Identifier: Apache-2.0 */
/* Which registered image a machine booted, and whether its contract takes that one. */
#ifndef CP_BOOTED_H
#define CP_BOOTED_H

#include "controlplane/attest/policy.h"

struct cp_booted {
    const char *reason;                /* NULL: the contract takes it; else the code */
    char detail[CP_ATTEST_DETAIL_MAX]; /* of the reason */
    char image[CP_IMAGE_NAME_MAX + 1], version[CP_IMAGE_NAME_MAX + 1];
};

/* Looks at all images that are registered, as they are now: a revocation holds from the next renewal on. In a
 * transaction. */
int cp_booted_judge(struct cp_store *s, const struct cp_attest_policy *p, const struct tb_tpm_pcrs *quoted,
                    struct cp_booted *ret);

#endif
