/* SPDX-License-Identifier: Apache-2.0 */
/* The last requests, without anything of theirs, and the traffic of the last minute: for the status page. */
#ifndef TB_PROXY_ADMIN_RECENT_H
#define TB_PROXY_ADMIN_RECENT_H

#include <stddef.h>
#include <stdint.h>

#define TB_RECENT_REQUESTS 12
#define TB_RECENT_SECONDS 60

struct tb_recent_request {
    uint64_t realtime_us; /* of its end */
    const char *method, *path;
    int status;
    uint64_t latency_us;
};

/* Running totals. */
struct tb_recent_totals {
    uint64_t requests, bytes_out, tokens;
};

struct tb_recent {
    struct tb_recent_request request[TB_RECENT_REQUESTS];
    uint64_t n_requests; /* all that were ever added */
    struct tb_recent_totals at[TB_RECENT_SECONDS + 1];
    uint64_t n_seconds, second_us; /* looks that were ever taken; monotonic, when the last one was */
};

/* Method and path are kept as one of a few names only: a path may hold what is nobody's business. */
void tb_recent_add(struct tb_recent *r, const char *method, const char *path, size_t path_len,
                   uint64_t realtime_us, int status, uint64_t latency_us);
/* i = 0: the latest. NULL past the last one kept. */
const struct tb_recent_request *tb_recent_get(const struct tb_recent *r, size_t i);
/* Takes a look once a second; call it more often. */
void tb_recent_tick(struct tb_recent *r, uint64_t now_us, const struct tb_recent_totals *now);
/* What was added in the last seconds: *ret, and of how many seconds, up to TB_RECENT_SECONDS. */
size_t tb_recent_sum(const struct tb_recent *r, struct tb_recent_totals *ret);
/* Requests in each second, the oldest first; always TB_RECENT_SECONDS. */
void tb_recent_each(const struct tb_recent *r, uint64_t out[static TB_RECENT_SECONDS]);

#endif
