/* SPDX-License-Identifier: Apache-2.0 */
/* GET /events on the health port: the status page's contents as server-sent events, at once when the state changes and else once a
 * second. Few at a time, so that viewers cannot take the port's connections from a load balancer's probes. */
#ifndef TB_PROXY_ADMIN_EVENTS_H
#define TB_PROXY_ADMIN_EVENTS_H

#include <microhttpd.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/service_state.h"

#define TB_LIVE_MAX 8

struct tb_server;
struct tb_live_client;

struct tb_live {
    struct tb_live_client *client[TB_LIVE_MAX];
    struct tb_buf event; /* the latest */
    uint64_t version;    /* of the event */
    uint64_t made_us;
    struct tb_verdict made_for;
    bool stopping; /* streams end */
};

/* A response that goes on and on; NULL when there are enough, or no memory. */
struct MHD_Response *tb_live_response(struct tb_server *s, struct MHD_Connection *c);
/* Makes a new event when it is time, and wakes who waits for it. */
void tb_live_tick(struct tb_server *s, uint64_t now_us);
/* Ends all streams: before the health daemon is stopped. */
void tb_live_stop(struct tb_server *s);
void tb_live_done(struct tb_live *l);

#endif
