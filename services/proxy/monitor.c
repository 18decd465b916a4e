/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/monitor.h"

#include <string.h>

#include "common/domain_file.h"
#include "common/events.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/units.h"

/* A file that is there but cannot be understood is said once per look and counts as absent: never as a permission. */
static void read_files(struct tb_watch *w)
{
    tb_facts_read(w->run_dir, &w->facts);
    if (w->facts.broken)
        tb_debug("%s/%s: %s", w->run_dir, w->facts.broken, strerror(-w->facts.broken_error));
}

/* --- the runtime's health -------------------------------------------------------------------------------------- */

static void probe_end(struct tb_watch *w, bool healthy)
{
    tb_call_free(w->probe);
    w->probe = NULL;
    if (!healthy)
        tb_limits_fetch_reset(&w->limits);
    /* Budgets need to know what it can do before the first request. */
    if (healthy && !w->facts.runtime_healthy && tb_limits_fetch_start(&w->limits))
        return;
    w->facts.runtime_healthy = healthy;
}

static void limits_finished(void *arg)
{
    struct tb_watch *w = arg;

    w->facts.runtime_healthy = true;
}

static void probe_event(void *arg)
{
    struct tb_watch *w = arg;
    const struct tb_response *rs = tb_call_response(w->probe);
    char dust[512];
    ssize_t n;

    if (tb_call_failed(w->probe))
        return probe_end(w, false);
    if (!rs)
        return;
    while ((n = tb_call_read(w->probe, dust, sizeof(dust))) > 0)
        ;
    if (n != -EAGAIN)
        probe_end(w, n == 0 && rs->status == 200);
}

static void probe_start(struct tb_watch *w)
{
    _cleanup_buf_ struct tb_buf lines = {0};
    struct tb_call_request rq = {
        .method = "GET", .target = w->health, .lines = &lines, .on_event = probe_event, .arg = w};

    if (tb_buf_printf(&lines, "Host: %s\r\nUser-Agent: tb-proxy\r\n", tb_upstream_host(w->upstream)) < 0 ||
        tb_call_start(w->upstream, &rq, &w->probe) < 0) {
        w->facts.runtime_healthy = false;
        return;
    }
    tb_call_write_end(w->probe);
    if (tb_call_failed(w->probe))
        probe_end(w, false);
}

static void probe(struct tb_watch *w, uint64_t now)
{
    if (w->facts.delivery.work != TB_WORK_COMPLETE) {
        if (w->probe)
            probe_end(w, false);
        w->facts.runtime_healthy = false;
        w->probed_at_us = 0;
        return;
    }
    if (w->probe && now - w->probed_at_us > TB_WATCH_PROBE_TIMEOUT_US)
        probe_end(w, false);
    /* Until it answers, look more often: readiness is what somebody waits for. */
    if (!w->probe &&
        now - w->probed_at_us >= (w->facts.runtime_healthy ? TB_WATCH_PROBE_US : TB_WATCH_FILES_US)) {
        w->probed_at_us = now;
        probe_start(w);
    }
}

/* --- telling --------------------------------------------------------------------------------------------------- */

static void write_own_file(const struct tb_watch *w)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];
    int r = -ENOMEM;

    tb_rfc3339_format(w->since_realtime_us, 1, since);
    if (doc && cJSON_AddStringToObject(doc, "state", tb_state_name(w->verdict.state)) &&
        cJSON_AddStringToObject(doc, "reason", w->verdict.reason) &&
        cJSON_AddStringToObject(doc, "since", since) &&
        tb_json_add_uint(doc, "requests_processed", w->requests(w->arg)) >= 0)
        r = tb_state_write(w->own_dir, "proxy.json", doc, 0);
    if (r < 0)
        tb_warn("cannot write %s/proxy.json: %s", w->own_dir, strerror(-r));
}

static void tell(const struct tb_watch *w, const char *from)
{
    char state[64], reason[TB_REASON_MAX + 16];
    const char *fields[] = {state, reason, NULL};
    const char *name = tb_state_name(w->verdict.state), *why = w->verdict.reason;

    snprintf(state, sizeof(state), "TB_STATE=%s", name);
    snprintf(reason, sizeof(reason), "TB_REASON=%s", why);
    tb_log_full(w->verdict.state == TB_STATE_SUSPENDED ? TB_LOG_WARN : TB_LOG_INFO, TB_EVENT_STATE, fields,
                "state: %s -> %s%s%s", from, name, *why ? ": " : "", why);
    tb_notify_status("%s%s%s", name, *why ? ": " : "", why);
    write_own_file(w);
}

void tb_watch_tick(struct tb_watch *w)
{
    w->limits.finished = limits_finished;
    w->limits.finished_arg = w;
    uint64_t now = tb_now_monotonic_us();
    struct tb_verdict old = w->verdict;

    if (!w->started || now - w->read_at_us >= TB_WATCH_FILES_US) {
        w->read_at_us = now;
        read_files(w);
    }
    probe(w, now);
    tb_state_derive(&w->facts, tb_now_boottime_us(), &w->verdict);
    if (w->started && old.state == w->verdict.state && strcmp(old.reason, w->verdict.reason) == 0)
        return;
    if (!w->started || old.state != w->verdict.state)
        w->since_realtime_us = tb_now_realtime_us();
    tell(w, w->started ? tb_state_name(old.state) : "start");
    w->started = true;
}

void tb_watch_look(struct tb_watch *w)
{
    w->read_at_us = 0;
    tb_watch_tick(w);
}

void tb_watch_done(struct tb_watch *w)
{
    tb_limits_fetch_reset(&w->limits);
    tb_call_free(w->probe);
    w->probe = NULL;
}
