/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/metrics.h"

#include <sys/resource.h>

#include "common/domain_file.h"
#include "common/json.h"
#include "proxy/server.h"
#include "common/units.h"
#include "common/version.h"

static const double bounds[TB_LATENCY_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                  0.25,  0.5,    1,     2.5,  10,    60,   300};

void tb_metrics_observe(struct tb_metrics *m, int status, uint64_t latency_us)
{
    double s = (double)latency_us / 1e6;
    size_t i = 0;

    m->by_code[status > 0 && status < TB_CODES ? status : 0]++;
    while (i < TB_LATENCY_BUCKETS && s > bounds[i])
        i++;
    m->latency[i]++;
    m->latency_count++;
    m->latency_sum_s += s;
}

uint64_t tb_metrics_count(const struct tb_metrics *m, int from, int to)
{
    uint64_t n = 0;

    for (int i = from; i <= to; i++)
        n += m->by_code[i];
    return n;
}

static void metrics_head(struct tb_buf *o, const char *name, const char *type, const char *help)
{
    tb_buf_printf(o, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void metrics_single(struct tb_buf *o, const char *name, const char *type, const char *help, uint64_t v)
{
    metrics_head(o, name, type, help);
    tb_buf_printf(o, "%s %llu\n", name, (unsigned long long)v);
}

static void metrics_seconds(struct tb_buf *o, const char *name, const char *type, const char *help, double v)
{
    metrics_head(o, name, type, help);
    tb_buf_printf(o, "%s %.3f\n", name, v);
}

static void metrics_requests(const struct tb_metrics *m, struct tb_buf *o)
{
    uint64_t sum = 0;

    metrics_head(o, "tb_requests_total", "counter",
                 "API requests by status, refused ones included; 499: the client went away first.");
    for (int i = 0; i < TB_CODES; i++)
        if (m->by_code[i] > 0)
            tb_buf_printf(o, "tb_requests_total{code=\"%d\"} %llu\n", i, (unsigned long long)m->by_code[i]);
    metrics_head(o, "tb_request_duration_seconds", "histogram",
                 "Time from a request's head to the end of its answer.");
    for (int i = 0; i <= TB_LATENCY_BUCKETS; i++) {
        sum += m->latency[i];
        if (i < TB_LATENCY_BUCKETS)
            tb_buf_printf(o, "tb_request_duration_seconds_bucket{le=\"%g\"} %llu\n", bounds[i],
                          (unsigned long long)sum);
    }
    tb_buf_printf(o, "tb_request_duration_seconds_bucket{le=\"+Inf\"} %llu\n", (unsigned long long)sum);
    tb_buf_printf(o, "tb_request_duration_seconds_sum %.6f\ntb_request_duration_seconds_count %llu\n",
                  m->latency_sum_s, (unsigned long long)m->latency_count);
    metrics_single(o, "tb_requests_in_flight", "gauge", "API requests being served.", m->in_flight);
}

static void metrics_usage(const struct tb_server *s, struct tb_buf *o)
{
    metrics_head(o, "tb_usage_total", "counter", "Billing counters; they outlive the process.");
    for (int i = 0; i < _TB_USAGE_MAX; i++)
        tb_buf_printf(o, "tb_usage_total{dimension=\"%s\"} %llu\n", tb_usage_name(i),
                      (unsigned long long)tb_usage_get(s->usage, i));
}

static void metrics_audit(const struct tb_server *s, struct tb_buf *o)
{
    struct tb_audit_stats a;

    tb_audit_get_stats(s->audit, &a);
    metrics_single(o, "tb_audit_records_total", "counter", "Audit records written by this process.",
                   a.written);
    metrics_single(o, "tb_audit_aggregated_requests_total", "counter",
                   "Requests refused without a key that share an audit record.", a.aggregated);
    metrics_single(o, "tb_audit_last_seq", "gauge", "Number of the last audit record.", a.seq);
    metrics_single(o, "tb_audit_queue_records", "gauge", "Requests in flight and audit records waiting.",
                   a.slots);
    metrics_single(o, "tb_audit_queue_limit_records", "gauge", "Above it requests are refused.", a.limit);
    metrics_single(o, "tb_audit_unsynced_records", "gauge", "Records a power failure would take.",
                   a.unsynced);
    metrics_single(o, "tb_audit_refused_total", "counter",
                   "Requests refused because the audit could not take their record.", a.refused);
    metrics_single(o, "tb_audit_dropped_connections_total", "counter",
                   "Connections closed unanswered, not even a slot for the refusal's record was left.",
                   a.dropped);
    metrics_single(o, "tb_audit_broken", "gauge", "1 while audit records cannot be written.", a.broken);
}

/* What tb-billing last said, if it runs. */
static void metrics_billing(const struct tb_server *s, struct tb_buf *o)
{
    static const char *const state[] = {"open", "frozen", "sent", "accepted", "parked"};
    _cleanup_json_ cJSON *doc = NULL;
    char err[TB_JSON_ERR_MAX];
    const cJSON *events;
    uint64_t n;

    if (tb_state_read_at(s->config->run_dir, "tb-billing/report.json", &doc) < 0)
        return;
    if (tb_json_get_uint(doc, "late_seconds", TB_JSON_INT_MAX, &n, err) == 0)
        metrics_single(o, "tb_billing_lag_seconds", "gauge",
                       "Age of the oldest hour of usage that the marketplace has not accepted.", n);
    events = tb_json_member(doc, "events");
    if (!cJSON_IsObject(events))
        return;
    metrics_head(o, "tb_billing_events", "gauge", "Usage events in the ledger by state.");
    for (size_t i = 0; i < ARRAY_SIZE(state); i++)
        if (tb_json_get_uint(events, state[i], TB_JSON_INT_MAX, &n, err) == 0)
            tb_buf_printf(o, "tb_billing_events{state=\"%s\"} %llu\n", state[i], (unsigned long long)n);
}

static void metrics_process(const struct tb_server *s, struct tb_buf *o)
{
    uint64_t age = tb_now_monotonic_us() - s->started_us;
    struct rusage u;

    metrics_head(o, "tb_build_info", "gauge", "1; the version of tb-proxy is in the label.");
    tb_buf_printf(o, "tb_build_info{version=\"%s\"} 1\n", TB_VERSION);
    metrics_seconds(o, "process_start_time_seconds", "gauge", "When this process began, since the epoch.",
                    (double)(tb_now_realtime_us() - age) / 1e6);
    if (getrusage(RUSAGE_SELF, &u) < 0)
        return;
    metrics_seconds(o, "process_cpu_seconds_total", "counter", "CPU time, user and system.",
                    (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
                        (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    metrics_single(o, "process_peak_resident_memory_bytes", "gauge",
                   "Most memory this process has had resident.", (uint64_t)u.ru_maxrss * 1024);
}

static void metrics_steps(const struct tb_facts *f, struct tb_buf *o)
{
    const struct {
        const char *name;
        const struct tb_step *step;
    } all[] = {{"hydrate", &f->hydrate}, {"decrypt", &f->decrypt}};

    metrics_head(o, "tb_step_done_bytes", "gauge", "Bytes that a step of the start has done.");
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        tb_buf_printf(o, "tb_step_done_bytes{step=\"%s\"} %llu\n", all[i].name,
                      (unsigned long long)all[i].step->bytes_done);
    metrics_head(o, "tb_step_size_bytes", "gauge", "Bytes that a step of the start has to do.");
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        tb_buf_printf(o, "tb_step_size_bytes{step=\"%s\"} %llu\n", all[i].name,
                      (unsigned long long)all[i].step->bytes_total);
}

static void metrics_state(const struct tb_server *s, struct tb_buf *o)
{
    const struct tb_facts *f = &s->monitor.facts;

    metrics_head(o, "tb_state", "gauge", "1 for the state the service is in.");
    for (int i = 0; i < _TB_STATE_MAX; i++)
        tb_buf_printf(o, "tb_state{state=\"%s\"} %d\n", tb_state_name(i),
                      s->monitor.verdict.state == (enum tb_state)i);
    if (f->has_deadline) {
        uint64_t now = tb_now_boottime_us();

        metrics_seconds(o, "tb_lease_remaining_seconds", "gauge",
                        "Time until the lease and its grace are over.",
                        f->deadline_boottime_us > now ? (double)(f->deadline_boottime_us - now) / 1e6 : 0.0);
    }
    metrics_steps(f, o);
    metrics_single(o, "tb_runtime_healthy", "gauge", "1 when the runtime's health endpoint answers 200.",
                   f->runtime_healthy);
}

int tb_metrics_format(const struct tb_server *s, struct tb_buf *o)
{
    metrics_process(s, o);
    metrics_state(s, o);
    metrics_requests(&s->metrics, o);
    metrics_usage(s, o);
    metrics_audit(s, o);
    metrics_billing(s, o);
    return tb_buf_error(o);
}
