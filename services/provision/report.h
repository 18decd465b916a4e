/* SPDX-License-Identifier: Apache-2.0 */
/* What an image without an agent tells Azure: that it is ready, or why not ("Create a generalized VM image
 * without a provisioning agent"). Texts only, no I/O. */
#ifndef PROVISION_REPORT_H
#define PROVISION_REPORT_H

#include "common/buf.h"

#define PROVISION_ID_MAX 128

/* Of the goal state that the wire server answers. */
struct provision_goal {
    char incarnation[24], container[PROVISION_ID_MAX], instance[PROVISION_ID_MAX];
};

/* -EBADMSG: it is none. */
int provision_goal_parse(const char *xml, size_t len, struct provision_goal *ret);
/* The body of the health report; why NULL: ready. */
int provision_health(const struct provision_goal *g, const char *why, struct tb_buf *ret);

#endif
