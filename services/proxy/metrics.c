/* SPDX-License-Identifier: Apache-2.0 */
#include "metrics.h"

#include "server.h"
#include "units.h"
#include "version.h"

static const double bounds[TB_LATENCY_BUCKETS] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                  0.25,  0.5,    1,     2.5,  10,    60,   300};

void tb_metrics_observe(struct tb_metrics *m, int status, uint64_t latency_us)
{
    double s = (double)latency_us / 1e6;
    size_t i = 0;

    m->by_class[status == 499 ? 0 : status / 100 % 6]++;
    while (i < TB_LATENCY_BUCKETS && s > bounds[i])
        i++;
    m->latency[i]++;
    m->latency_count++;
    m->latency_sum_s += s;
}

static void head(struct tb_buf *o, const char *name, const char *type, const char *help)
{
    (void)tb_buf_printf(o, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(struct tb_buf *o, const char *name, const char *type, const char *help, uint64_t v)
{
    head(o, name, type, help);
    (void)tb_buf_printf(o, "%s %llu\n", name, (unsigned long long)v);
}

static void requests(const struct tb_metrics *m, struct tb_buf *o)
{
    static const char *const class_name[] = {"aborted", "1xx", "2xx", "3xx", "4xx", "5xx"};
    uint64_t sum = 0;

    head(o, "tb_requests_total", "counter",
         "API requests by class of status; aborted: the client went away.");
    for (int i = 0; i < 6; i++)
        if (i != 1)
            (void)tb_buf_printf(o, "tb_requests_total{status=\"%s\"} %llu\n", class_name[i],
                                (unsigned long long)m->by_class[i]);
    head(o, "tb_request_duration_seconds", "histogram",
         "Time from a request's head to the end of its answer.");
    for (int i = 0; i <= TB_LATENCY_BUCKETS; i++) {
        sum += m->latency[i];
        if (i < TB_LATENCY_BUCKETS)
            (void)tb_buf_printf(o, "tb_request_duration_seconds_bucket{le=\"%g\"} %llu\n", bounds[i],
                                (unsigned long long)sum);
    }
    (void)tb_buf_printf(o, "tb_request_duration_seconds_bucket{le=\"+Inf\"} %llu\n", (unsigned long long)sum);
    (void)tb_buf_printf(o, "tb_request_duration_seconds_sum %.6f\ntb_request_duration_seconds_count %llu\n",
                        m->latency_sum_s, (unsigned long long)m->latency_count);
    single(o, "tb_requests_in_flight", "gauge", "API requests being served.", m->in_flight);
}

static void usage(const struct tb_server *s, struct tb_buf *o)
{
    head(o, "tb_usage_total", "counter", "Billing counters; they outlive the process.");
    for (int i = 0; i < _TB_USAGE_MAX; i++)
        (void)tb_buf_printf(o, "tb_usage_total{dimension=\"%s\"} %llu\n", tb_usage_name(i),
                            (unsigned long long)tb_usage_get(s->usage, i));
}

static void audit(const struct tb_server *s, struct tb_buf *o)
{
    struct tb_audit_stats a;

    tb_audit_get_stats(s->audit, &a);
    single(o, "tb_audit_records_total", "counter", "Audit records written.", a.written);
    single(o, "tb_audit_dropped_connections_total", "counter",
           "Connections closed unanswered, no audit slot left.", a.dropped);
    single(o, "tb_audit_slots", "gauge", "Requests in flight and audit records waiting.", a.slots);
    single(o, "tb_audit_broken", "gauge", "1 while audit records cannot be written.", a.broken);
}

static void state(const struct tb_server *s, struct tb_buf *o)
{
    const struct tb_facts *f = &s->watch.facts;

    head(o, "tb_state", "gauge", "1 for the state the service is in.");
    for (int i = 0; i < _TB_STATE_MAX; i++)
        (void)tb_buf_printf(o, "tb_state{state=\"%s\"} %d\n", tb_state_name(i),
                            s->watch.verdict.state == (enum tb_state)i);
    if (f->has_deadline) {
        uint64_t now = tb_now_boottime_us();

        head(o, "tb_lease_remaining_seconds", "gauge", "Time until the lease and its grace are over.");
        (void)tb_buf_printf(o, "tb_lease_remaining_seconds %.3f\n",
                            f->deadline_boottime_us > now ? (double)(f->deadline_boottime_us - now) / 1e6
                                                          : 0.0);
    }
    head(o, "tb_progress_bytes", "gauge", "Bytes done by a step of the start.");
    (void)tb_buf_printf(o, "tb_progress_bytes{step=\"hydrate\"} %llu\n",
                        (unsigned long long)f->hydrate.bytes_done);
    (void)tb_buf_printf(o, "tb_progress_bytes{step=\"decrypt\"} %llu\n",
                        (unsigned long long)f->decrypt.bytes_done);
    single(o, "tb_runtime_healthy", "gauge", "1 when the runtime's health endpoint answers 200.",
           f->runtime_healthy);
}

int tb_metrics_format(const struct tb_server *s, struct tb_buf *o)
{
    head(o, "tb_info", "gauge", "Version of tb-proxy.");
    (void)tb_buf_printf(o, "tb_info{version=\"%s\"} 1\n", TB_VERSION);
    head(o, "tb_uptime_seconds", "gauge", "Age of this process.");
    (void)tb_buf_printf(o, "tb_uptime_seconds %.3f\n", (double)(tb_now_monotonic_us() - s->started_us) / 1e6);
    state(s, o);
    requests(&s->metrics, o);
    usage(s, o);
    audit(s, o);
    return tb_buf_reserve(o, 1); /* what failed above left the page short: only memory can */
}
