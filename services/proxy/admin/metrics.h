/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of this process and their Prometheus text. */
#ifndef TB_PROXY_ADMIN_METRICS_H
#define TB_PROXY_ADMIN_METRICS_H

#include <stdint.h>

#include "common/buf.h"

#define TB_LATENCY_BUCKETS 14
/* Status codes below it are counted. Codes that never came are not in the page, so it stays short whatever a
 * runtime answers. */
#define TB_CODES 600

struct tb_metrics {
    uint64_t by_code[TB_CODES]; /* API requests by the status in their audit record; [0]: none of HTTP's */
    uint64_t latency[TB_LATENCY_BUCKETS + 1], latency_count;
    double latency_sum_s;
    uint64_t in_flight;
};

void tb_metrics_observe(struct tb_metrics *m, int status, uint64_t latency_us);

/* Requests with a status from..to. */
uint64_t tb_metrics_count(const struct tb_metrics *m, int from, int to);

struct tb_server;
/* The whole page. 0 or -ENOMEM. */
int tb_metrics_format(struct tb_server *s, struct tb_buf *out);

#endif
