/* SPDX-License-Identifier: Apache-2.0 */
/* Members of JSON events that go. When the usage that we asked for comes in an event of its own, that event
 * is not the client's; but what else a runtime says in it ("timings") would have come in the one before, and
 * goes there. The others have "usage": null then, which they would not have had. */
#ifndef TB_PROXY_USAGE_EVENT_EDIT_H
#define TB_PROXY_USAGE_EVENT_EDIT_H

#include "common/buf.h"

/* Appends the members of the event (one whole server-sent event) that are not of every event, each behind a
 * comma. 0; -ENOMEM. Nothing is appended when its data is no JSON object on one line. */
int tb_event_extras(const struct tb_buf *event, struct tb_buf *ret);
/* Appends the event to out, with the extras in it unless it has a member of that name. 0; -ENOMEM. */
int tb_event_splice(const struct tb_buf *event, const struct tb_buf *extras, struct tb_buf *out);
/* Appends the event without the member of this name. 0; -ENOMEM. */
int tb_event_without(const struct tb_buf *event, const char *key, struct tb_buf *out);

#endif
