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

/* --- the runtime's health ------------------------------------------------------------------------------- */

static void monitor_probe_end(struct tb_monitor *m, bool healthy)
{
    tb_call_free(m->probe);
    m->probe = NULL;
    if (!healthy)
        tb_limits_fetch_reset(&m->limits);
    /* Budgets need to know what it can do before the first request. */
    if (healthy && !m->facts.runtime_healthy && tb_limits_fetch_start(&m->limits))
        return;
    m->facts.runtime_healthy = healthy;
    if (m->started)
        tb_timer_set(m->loop, &m->timer, 0); /* the state may be another now */
}

static void monitor_forget_runtime(struct tb_monitor *m)
{
    tb_call_free(m->probe);
    m->probe = NULL;
    tb_limits_fetch_reset(&m->limits);
    m->facts.runtime_healthy = false;
    m->probed_us = 0;
}

static void monitor_limits_finished(void *arg)
{
    struct tb_monitor *m = arg;

    m->facts.runtime_healthy = true;
    tb_timer_set(m->loop, &m->timer, 0);
}

static void monitor_probe_event(void *arg)
{
    struct tb_monitor *m = arg;
    const struct tb_response *rs = tb_call_response(m->probe);
    char dust[512];
    ssize_t n;

    if (tb_call_failed(m->probe))
        return monitor_probe_end(m, false);
    if (!rs)
        return;
    while ((n = tb_call_read(m->probe, dust, sizeof(dust))) > 0)
        ;
    if (n != -EAGAIN)
        monitor_probe_end(m, n == 0 && rs->status == 200);
}

static void monitor_probe_start(struct tb_monitor *m)
{
    _cleanup_buf_ struct tb_buf lines = {0};
    struct tb_call_request rq = {
        .method = "GET", .target = m->health, .lines = &lines, .on_event = monitor_probe_event, .arg = m};

    if (tb_buf_printf(&lines, "Host: %s\r\nUser-Agent: tb-proxy\r\n", tb_upstream_host(m->upstream)) < 0 ||
        tb_call_start(m->upstream, &rq, &m->probe) < 0) {
        m->facts.runtime_healthy = false;
        return;
    }
    tb_call_write_end(m->probe);
    if (tb_call_failed(m->probe))
        monitor_probe_end(m, false);
}

/* Close enough: what is due every few seconds is done in the wake-up of a whole second. */
static bool monitor_due(uint64_t now, uint64_t last_us, uint64_t period_us)
{
    return now - last_us + period_us / 20 >= period_us;
}

static uint64_t monitor_probe_period(const struct tb_monitor *m)
{
    /* Until it answers, look more often: readiness is what somebody waits for. */
    return m->facts.runtime_healthy ? TB_MONITOR_PROBE_US : TB_MONITOR_PROBE_WAITING_US;
}

static void monitor_probe(struct tb_monitor *m, uint64_t now)
{
    if (m->facts.delivery.work != TB_WORK_COMPLETE)
        return monitor_forget_runtime(m);
    if (m->probe && now - m->probed_us > TB_MONITOR_PROBE_TIMEOUT_US)
        monitor_probe_end(m, false);
    if (!m->probe && monitor_due(now, m->probed_us, monitor_probe_period(m))) {
        m->probed_us = now;
        monitor_probe_start(m);
    }
}

/* The runtime has closed a connection that was kept: it may be about to end. */
static void monitor_runtime_closed(void *arg)
{
    struct tb_monitor *m = arg;
    uint64_t now = tb_now_monotonic_us();

    if (m->probe || now - m->probed_us < TB_MONITOR_PROBE_WAITING_US)
        return;
    m->probed_us = 0;
    tb_timer_set(m->loop, &m->timer, now);
}

/* --- the files ------------------------------------------------------------------------------------------ */

/* Directories appear when their programs start. */
static void monitor_watch_files(struct tb_monitor *m)
{
    static const char *const programs[] = {"tb-authorize", "tb-hydrate", "tb-decrypt",
                                           "tb-runtime",   "tb-next",    "tb-update"};

    m->watched = tb_file_watch_add(&m->files, m->run_dir);
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        _cleanup_free_ char *dir = tb_path_join(m->run_dir, programs[i]);

        if (dir)
            (void)tb_file_watch_add(&m->files, dir);
    }
}

/* A file that is there but cannot be understood is said once per look and counts as absent: never as a
 * permission. */
static void monitor_read_files(struct tb_monitor *m)
{
    uint64_t began = m->facts.delivery.started_boottime_us;

    monitor_watch_files(m); /* first: what changes while it is read is read again */
    tb_facts_read(m->run_dir, &m->facts);
    /* What was well is the runtime of the delivery before, also where nobody looked in between. */
    if (began && m->facts.delivery.started_boottime_us != began)
        monitor_forget_runtime(m);
    if (m->facts.broken)
        tb_debug("%s/%s: %s", m->run_dir, m->facts.broken, strerror(-m->facts.broken_error));
}

static void monitor_files_changed(struct tb_file_watch *w)
{
    struct tb_monitor *m = container_of(w, struct tb_monitor, files);
    uint64_t soon = MAX(tb_now_monotonic_us(), m->read_us + TB_MONITOR_GATHER_US);

    m->read_us = 0;
    if (soon < m->timer.due_us || !tb_timer_is_set(&m->timer))
        tb_timer_set(m->loop, &m->timer, soon);
}

/* --- reporting ------------------------------------------------------------------------------------------ */

static void monitor_write_file(const struct tb_monitor *m)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];
    int r = -ENOMEM;

    tb_rfc3339_format(m->since_realtime_us, 1, since);
    if (doc && cJSON_AddStringToObject(doc, "state", tb_state_name(m->verdict.state)) &&
        cJSON_AddStringToObject(doc, "reason", m->verdict.reason) &&
        cJSON_AddStringToObject(doc, "since", since) &&
        tb_json_add_uint(doc, "since_boottime_us", m->since_boottime_us) >= 0 &&
        tb_json_add_uint(doc, "requests_processed", m->requests(m->arg)) >= 0 &&
        tb_json_add_uint(doc, "healthy_version", m->healthy_version) >= 0 &&
        cJSON_AddBoolToObject(doc, "drained", m->drained))
        r = tb_state_write(m->own_dir, "proxy.json", doc, 0);
    if (r < 0)
        tb_warn("cannot write %s/proxy.json: %s", m->own_dir, strerror(-r));
}

static void monitor_report(const struct tb_monitor *m, const char *from)
{
    char state[64], reason[TB_REASON_MAX + 16];
    const char *fields[] = {state, reason, NULL};
    const char *name = tb_state_name(m->verdict.state), *why = m->verdict.reason;
    bool bad = m->verdict.state == TB_STATE_SUSPENDED || m->verdict.state == TB_STATE_DOWN;

    snprintf(state, sizeof(state), "TB_STATE=%s", name);
    snprintf(reason, sizeof(reason), "TB_REASON=%s", why);
    tb_log_full(bad ? TB_LOG_WARN : TB_LOG_INFO, TB_EVENT_STATE, fields, "state: %s -> %s%s%s", from, name,
                *why ? ": " : "", why);
    tb_notify_status("%s%s%s", name, *why ? ": " : "", why);
    monitor_write_file(m);
}

/* --- looking -------------------------------------------------------------------------------------------- */

static void monitor_derive(struct tb_monitor *m)
{
    struct tb_verdict old = m->verdict;

    if (!m->obstacle(m->arg, m->facts.audit_trouble))
        m->facts.audit_trouble[0] = '\0';
    m->facts.lost = m->lost(m->arg);
    tb_state_derive(&m->facts, tb_now_boottime_us(), &m->verdict);
    if (m->started && old.state == m->verdict.state && strcmp(old.reason, m->verdict.reason) == 0)
        return;
    if (!m->started || old.state != m->verdict.state) {
        m->since_realtime_us = tb_now_realtime_us();
        m->since_boottime_us = tb_now_boottime_us();
    }
    monitor_report(m, m->started ? tb_state_name(old.state) : "start");
    m->started = true;
    m->changed(m->arg);
}

/* tb-update waits for it. */
static void monitor_tell_update(struct tb_monitor *m)
{
    const struct tb_facts *f = &m->facts;
    bool well = f->runtime_healthy && f->delivery.work == TB_WORK_COMPLETE;
    uint64_t version = well ? f->delivery.version : 0;
    bool drained = f->update.phase == TB_UPDATE_DRAINING && m->idle(m->arg);
    bool news = m->phase != f->update.phase || m->healthy_version != version;

    if (!news && m->drained == drained)
        return;
    m->phase = f->update.phase;
    m->healthy_version = version;
    m->drained = drained;
    monitor_write_file(m);
    if (news)
        m->changed(m->arg);
}

static uint64_t monitor_files_period(const struct tb_monitor *m)
{
    return m->watched ? TB_MONITOR_FILES_US : TB_MONITOR_FILES_UNWATCHED_US;
}

/* When there is something to do next; what has time is done in a whole second, together with what others
 * do then. */
static uint64_t monitor_next_us(const struct tb_monitor *m, uint64_t now)
{
    uint64_t next = m->read_us + monitor_files_period(m), boot = tb_now_boottime_us();

    if (m->facts.delivery.work == TB_WORK_COMPLETE)
        next = MIN(next, m->probed_us + (m->probe ? TB_MONITOR_PROBE_TIMEOUT_US : monitor_probe_period(m)));
    if (next > now + TB_USEC_PER_SEC / 2)
        next = (next + TB_USEC_PER_SEC - 1) / TB_USEC_PER_SEC * TB_USEC_PER_SEC;
    if (m->facts.has_deadline && m->facts.deadline_boottime_us > boot)
        next = MIN(next, now + (m->facts.deadline_boottime_us - boot));
    if (m->facts.update.phase == TB_UPDATE_DRAINING && !m->drained)
        next = MIN(next, now + TB_MONITOR_DRAIN_US);
    return MAX(next, now + 1000);
}

static void monitor_run(struct tb_monitor *m)
{
    uint64_t now = tb_now_monotonic_us();

    if (monitor_due(now, m->read_us, monitor_files_period(m))) {
        m->read_us = now;
        monitor_read_files(m);
    }
    monitor_probe(m, now);
    monitor_derive(m);
    monitor_tell_update(m);
    tb_timer_set(m->loop, &m->timer, monitor_next_us(m, now));
}

static void monitor_timer(struct tb_timer *t)
{
    monitor_run(container_of(t, struct tb_monitor, timer));
}

void tb_monitor_start(struct tb_monitor *m)
{
    m->timer.fn = monitor_timer;
    m->limits.finished = monitor_limits_finished;
    m->limits.finished_arg = m;
    m->files.changed = monitor_files_changed;
    tb_file_watch_open(&m->files, m->loop);
    tb_upstream_on_close(m->upstream, monitor_runtime_closed, m);
    monitor_run(m);
}

void tb_monitor_look(struct tb_monitor *m)
{
    m->read_us = 0;
    monitor_run(m);
}

const struct tb_verdict *tb_monitor_verdict(struct tb_monitor *m)
{
    if (m->started)
        monitor_derive(m);
    return &m->verdict;
}

bool tb_monitor_is_asking(const struct tb_monitor *m)
{
    return m->probe || m->limits.call;
}

void tb_monitor_stop(struct tb_monitor *m)
{
    tb_limits_fetch_reset(&m->limits);
    tb_call_free(m->probe);
    m->probe = NULL;
    if (m->loop)
        tb_timer_stop(m->loop, &m->timer);
    tb_file_watch_close(&m->files);
}
