/* SPDX-License-Identifier: Apache-2.0 */
/* Counters of this process and their Prometheus text. */
#ifndef TB_PROXY_METRICS_H
#define TB_PROXY_METRICS_H

#include <stdint.h>

#include "buf.h"

#define TB_LATENCY_BUCKETS 14

struct tb_metrics {
    uint64_t by_class[6]; /* API requests by first digit of the status; [4] without 499, [0] for 499 */
    uint64_t latency[TB_LATENCY_BUCKETS + 1], latency_count;
    double latency_sum_s;
    uint64_t in_flight;
};

void tb_metrics_observe(struct tb_metrics *m, int status, uint64_t latency_us);

struct tb_server;
/* The whole page. 0 or -ENOMEM. */
int tb_metrics_format(const struct tb_server *s, struct tb_buf *out);

#endif
