/* SPDX-License-Identifier: Apache-2.0 */
/* GET /events on the health port: the status page's contents as server-sent events, at once when the state
 * changes and else once a second. Few at a time, so that viewers cannot take the port's connections from a
 * load balancer's probes. */
#ifndef TB_PROXY_ADMIN_EVENTS_H
#define TB_PROXY_ADMIN_EVENTS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/service_state.h"

#define TB_EVENTS_VIEWERS_MAX 8

struct tb_server;
struct tb_event_viewer;

struct tb_events {
    struct tb_event_viewer *client[TB_EVENTS_VIEWERS_MAX];
    struct tb_buf event; /* the latest */
    uint64_t version;    /* of the event */
    uint64_t made_us;
    struct tb_verdict made_for;
    bool stopping; /* streams end */
};

/* A response without an end; NULL when there are enough viewers, or no memory. */
struct MHD_Response *tb_events_response(struct tb_server *s, struct MHD_Connection *c);
/* Makes a new event when it is time, and wakes the viewers that wait for it. */
void tb_events_tick(struct tb_server *s, uint64_t now_us);
/* Ends all streams: before the health daemon is stopped. */
void tb_events_stop(struct tb_server *s);
void tb_events_done(struct tb_events *e);

#endif
