/* SPDX-License-Identifier: Apache-2.0 */
/* Everything one tb-proxy process holds. Made by main.c, used on the loop's thread only. */
#ifndef TB_PROXY_SERVER_H
#define TB_PROXY_SERVER_H

#include <microhttpd.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/audit/audit.h"
#include "common/config.h"
#include "proxy/background.h"
#include "proxy/usage/cost.h"
#include "proxy/usage/in_flight.h"
#include "proxy/usage/response_sizes.h"
#include "proxy/gate/cors.h"
#include "proxy/gate/key_store.h"
#include "proxy/gate/routes.h"
#include "proxy/admin/events.h"
#include "proxy/admin/health_connections.h"
#include "proxy/http/listener.h"
#include "proxy/http/loop.h"
#include "proxy/http/tls.h"
#include "proxy/admin/metrics.h"
#include "proxy/admin/recent.h"
#include "proxy/admin/runtime_metrics.h"
#include "proxy/admin/surroundings.h"
#include "proxy/reload.h"
#include "proxy/machine_report.h"
#include "proxy/state_files.h"
#include "proxy/http/upstream.h"
#include "common/usage.h"
#include "proxy/monitor.h"

#define TB_SPARE_MAX 256 /* what requests leave behind for the next ones, of each kind */

/* Contexts for the digests of bodies: what is not in use. */
struct tb_digests {
    EVP_MD_CTX *fresh; /* of no bytes: copying it costs a fraction of starting one */
    EVP_MD_CTX *spare[TB_SPARE_MAX];
    size_t n;
};

struct tb_server {
    const struct tb_config *config;
    struct tb_loop loop;
    struct tb_listener listener; /* the public port */
    char public_addr[96];        /* where that is */
    struct tb_tls tls;
    struct MHD_Daemon *health;
    struct tb_health_connections health_connections;
    struct tb_upstream *upstream;
    struct tb_monitor monitor;
    struct tb_audit *audit;
    struct tb_usage *usage;
    struct tb_key_store *keys;  /* NULL without TB_API_KEYS */
    struct tb_source keys_read; /* its thread has come to an end */
    struct tb_cors_policy cors;
    struct tb_route_cache routes;
    struct tb_in_flight *answers;
    struct tb_background *background; /* NULL while there was none */
    struct tb_runtime_limits runtime_limits;
    struct tb_response_sizes *response_sizes; /* NULL while there was none */
    struct tb_reload reload;
    struct tb_state_files state_files;
    struct tb_machine_report machine_report;
    struct tb_metrics metrics;
    uint8_t ids[64][16]; /* request ids not given yet */
    size_t ids_left;
    struct tb_digests digests;
    struct tb_exchange *spare[TB_SPARE_MAX]; /* requests that are over, for the next ones */
    size_t n_spare;
    struct tb_buf fields; /* of the head that is being made */
    struct tb_surroundings surroundings;
    struct tb_recent recent;
    struct tb_events events;
    struct tb_runtime_fetch *fetch[TB_RUNTIME_METRICS_MAX];
    bool draining;              /* SIGTERM came: each answer closes its connection */
    uint64_t started_us;        /* monotonic */
    uint64_t requests_at_start; /* usage counter */
    uint64_t last_done_us;      /* monotonic, end of the latest exchange */
    unsigned asked;             /* requests that the runtime has not answered whole */
    uint64_t heard_us;          /* monotonic, when it last said anything to one of them, or the first came */
};

/* Requests the runtime answered since this process started. */
static inline uint64_t tb_server_requests(const struct tb_server *s)
{
    return tb_usage_get(s->usage, TB_USAGE_REQUESTS) - s->requests_at_start;
}

/* How long the runtime has said nothing to anybody who waits. A server that hangs may well answer its health
 * path. */
static inline uint64_t tb_server_silent_us(const struct tb_server *s, uint64_t now_us)
{
    return s->asked > 0 && now_us > s->heard_us ? now_us - s->heard_us : 0;
}

#endif
