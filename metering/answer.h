/* SPDX-License-Identifier: Apache-2.0 */
/* What is sent to the marketplace metering API (2018-08-31) and what its answers mean. No I/O. */
#ifndef TB_METERING_ANSWER_H
#define TB_METERING_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

#include "metering/event.h"

#define TB_METERING_ANSWER_MAX (256 * 1024)

/* Body of POST /api/batchUsageEvent. Heap, NULL on ENOMEM. */
char *tb_metering_answer_request(const struct tb_metering_batch *b);

struct tb_metering_answer {
    struct tb_metering_verdict verdict[TB_METERING_BATCH_MAX]; /* of each event of the batch */
    bool transient;                                            /* nothing more now: wait and try again */
    bool again; /* some of it later, but what comes after it may go now */
    bool split; /* one bad event may have spoilt the request: send them one by one */
    bool token; /* the token was not taken: get a new one */
    char reason[TB_METERING_REASON_MAX];
};
/* An answer of any status, to a request with this batch. */
void tb_metering_answer_judge(long status, const char *body, size_t len, const struct tb_metering_batch *b,
                              struct tb_metering_answer *ret);
/* No answer: nothing can have arrived (reached = false), or it is not known. */
void tb_metering_answer_none(bool reached, const char *reason, const struct tb_metering_batch *b,
                             struct tb_metering_answer *ret);

/* {"access_token", "expires_in"} of the instance metadata service: the token in *ret (heap, to be wiped) and
 * its seconds. -EBADMSG. */
int tb_metering_answer_token(const char *body, size_t len, char **ret, uint64_t *ret_seconds);
/* compute/ of the instance metadata: subscription and resource group, both heap. -EBADMSG. */
int tb_metering_answer_instance(const char *body, size_t len, char **ret_subscription, char **ret_group);
/* managedBy of a resource group: the ARM id of the managed application, heap. -ENOENT when it has none.
 * -EBADMSG. */
int tb_metering_answer_managed_by(const char *body, size_t len, char **ret);

#endif
