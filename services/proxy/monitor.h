/* SPDX-License-Identifier: Apache-2.0 */
/* Gathers the facts for state.c: reads the domain files, probes the runtime's health, derives the state, and tells the
 * world when it changes (log, RUN/tb-proxy/proxy.json, STATUS=). The one place that looks. */
#ifndef TB_PROXY_MONITOR_H
#define TB_PROXY_MONITOR_H

#include <stdint.h>

#include "proxy/http/loop.h"
#include "common/facts.h"
#include "proxy/http/upstream.h"
#include "proxy/runtime_limits.h"

#define TB_WATCH_FILES_US 250000ULL /* how often the files are read */
#define TB_WATCH_PROBE_US 1000000ULL
#define TB_WATCH_PROBE_TIMEOUT_US 3000000ULL

struct tb_watch {
    const char *run_dir; /* parent of the programs' runtime directories; borrowed */
    const char *own_dir; /* where proxy.json goes; borrowed */
    struct tb_upstream *upstream;
    const char *health; /* what the runtime answers 200 to when it is well, TB_RUNTIME_HEALTH; borrowed */
    uint64_t (*requests)(void *arg); /* for requests_processed in proxy.json */
    void *arg;
    struct tb_limits_fetch limits; /* asked for when the runtime becomes well */
    struct tb_facts facts;
    struct tb_verdict verdict;
    uint64_t since_realtime_us; /* of the state */
    /* private */
    struct tb_call *probe;
    uint64_t read_at_us, probed_at_us;
    bool started;
};

/* Looks when it is time to. Call it at least four times a second. */
void tb_watch_tick(struct tb_watch *w);
/* Looks at the files now, where an answer depends on what was written a moment ago. */
void tb_watch_look(struct tb_watch *w);
void tb_watch_done(struct tb_watch *w);

#endif
