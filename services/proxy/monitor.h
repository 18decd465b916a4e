/* SPDX-License-Identifier: Apache-2.0 */
/* The state monitor: reads the domain files when they change, probes the runtime's health, derives the
 * state (common/service_state.h) and reports when it changes (log, RUN/tb-proxy/proxy.json, STATUS=). The
 * one place that looks. */
#ifndef TB_PROXY_MONITOR_H
#define TB_PROXY_MONITOR_H

#include <stdbool.h>
#include <stdint.h>

#include "common/facts.h"
#include "proxy/file_watch.h"
#include "proxy/http/loop.h"
#include "proxy/http/upstream.h"
#include "proxy/runtime_limits.h"

/* How often it looks by itself: at the files, which say when they change; and at files that cannot. */
#define TB_MONITOR_FILES_US 5000000ULL
#define TB_MONITOR_FILES_UNWATCHED_US 250000ULL
#define TB_MONITOR_GATHER_US 20000ULL /* changes that come together are read together */
/* How often the runtime is asked: until it is well, and then, as it is also asked when it closes a
 * connection. */
#define TB_MONITOR_PROBE_WAITING_US 250000ULL
#define TB_MONITOR_PROBE_US 2000000ULL
#define TB_MONITOR_PROBE_TIMEOUT_US 3000000ULL

#define TB_MONITOR_DRAIN_US 50000ULL /* until no request is left, when tb-update waits for that */

struct tb_monitor {
    struct tb_loop *loop;
    const char *run_dir; /* parent of the programs' runtime directories; borrowed */
    const char *own_dir; /* where proxy.json goes; borrowed */
    struct tb_upstream *upstream;
    const char *health; /* what the runtime answers 200 to when it is well, TB_RUNTIME_HEALTH; borrowed */
    uint64_t (*requests)(void *arg); /* for requests_processed in proxy.json */
    /* why no request could be recorded now; false: it could */
    bool (*obstacle)(void *arg, char out[static TB_REASON_MAX]);
    const char *(*lost)(void *arg); /* tb_facts_lost() */
    void (*changed)(void *arg);     /* the state has changed, or what becomes of another version */
    bool (*idle)(void *arg);        /* no request is being served */
    void *arg;
    struct tb_limits_fetch limits; /* asked for when the runtime becomes well */
    struct tb_facts facts;
    struct tb_verdict verdict;
    uint64_t since_realtime_us, since_boottime_us; /* of the state */
    /* private */
    struct tb_file_watch files;
    struct tb_timer timer;
    struct tb_call *probe;
    uint64_t read_us, probed_us; /* when that was done last */
    uint64_t healthy_version;    /* what proxy.json says beside the state */
    bool drained;
    enum tb_update_phase phase;
    bool watched; /* all directories are */
    bool started;
};

/* Looks for the first time; from then on by itself. */
void tb_monitor_start(struct tb_monitor *m);
/* Looks at the files now, where an answer depends on what was written a moment ago. */
void tb_monitor_look(struct tb_monitor *m);
/* What holds at this moment: with the clock and the audit of now, the files and the runtime as they were last
 * seen. Whoever tells others how it is asks here. */
const struct tb_verdict *tb_monitor_verdict(struct tb_monitor *m);
/* True while the runtime has been asked and has not answered. */
bool tb_monitor_is_asking(const struct tb_monitor *m);
void tb_monitor_stop(struct tb_monitor *m);

#endif
