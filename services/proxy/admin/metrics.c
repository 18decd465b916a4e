/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/admin/metrics.h"

#include <stddef.h>
#include <string.h>
#include <sys/resource.h>

#include "common/attestation.h"
#include "common/domain_file.h"
#include "common/json.h"
#include "common/picture.h"
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
    metrics_single(o, "tb_runtime_silent_seconds", "gauge",
                   "Since the runtime last said anything to a request that waits; 0 when none does.",
                   tb_server_silent_us(s, tb_now_monotonic_us()) / TB_USEC_PER_SEC);
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
    if (tb_json_get_uint(doc, "at_boottime_us", TB_JSON_INT_MAX, &n, err) == 0 && n <= tb_now_boottime_us())
        metrics_seconds(o, "tb_ledger_age_seconds", "gauge", "Time since usage was booked last.",
                        (double)(tb_now_boottime_us() - n) / 1e6);
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

static void metrics_attestation(const struct tb_facts *f, struct tb_buf *o)
{
    if (*f->attested.level) {
        metrics_head(o, "tb_attested_timestamp_seconds", "gauge",
                     "When the control plane last saw this machine attested, since the epoch.");
        tb_buf_printf(o, "tb_attested_timestamp_seconds{level=");
        tb_buf_json_string(o, f->attested.level, strlen(f->attested.level));
        tb_buf_printf(o, "} %llu\n", (unsigned long long)(f->attested.at_real_us / TB_USEC_PER_SEC));
    }
    metrics_single(o, "tb_attestation_refused", "gauge",
                   "1 while this machine's attestation is refused, or it can make none.",
                   tb_attestation_refusal(f) != NULL);
}

struct metrics_step {
    const char *name;
    const struct tb_picture_part *part;
};

static void metrics_step_uint(struct tb_buf *o, const struct metrics_step *all, size_t n, const char *name,
                              const char *help, size_t member)
{
    metrics_head(o, name, "gauge", help);
    for (size_t i = 0; i < n; i++)
        tb_buf_printf(o, "%s{step=\"%s\"} %llu\n", name, all[i].name,
                      (unsigned long long)*(const uint64_t *)((const char *)all[i].part + member));
}

static void metrics_steps(const struct tb_picture *p, struct tb_buf *o)
{
    const struct metrics_step all[] = {
        {"hydrate", &p->download}, {"decrypt", &p->decrypt}, {"next", &p->next}};
    size_t n = ARRAY_SIZE(all);

    metrics_step_uint(o, all, n, "tb_step_done_bytes", "Bytes that a step of the start has done.",
                      offsetof(struct tb_picture_part, done));
    metrics_step_uint(o, all, n, "tb_step_size_bytes", "Bytes that a step of the start has to do.",
                      offsetof(struct tb_picture_part, total));
    metrics_step_uint(o, all, n, "tb_step_bytes_per_second",
                      "Over the last seconds, while the step is under way; else 0.",
                      offsetof(struct tb_picture_part, rate));
    metrics_head(o, "tb_step_left_seconds", "gauge",
                 "Until the step is done, at that rate; absent where it cannot be told.");
    for (size_t i = 0; i < n; i++)
        if (all[i].part->has_left)
            tb_buf_printf(o, "tb_step_left_seconds{step=\"%s\"} %llu\n", all[i].name,
                          (unsigned long long)all[i].part->left_s);
}

/* While nothing comes, a mirror that failed says nothing of the mirror of now. */
static void metrics_source(const struct tb_picture *p, struct tb_buf *o)
{
    const struct tb_download_source *s = p->source;

    if (!*s->mirror)
        return;
    metrics_head(o, "tb_download_source_bytes", "gauge",
                 "Bytes of the last download by where they came from; only with a mirror.");
    tb_buf_printf(o, "tb_download_source_bytes{source=\"mirror\"} %llu\n",
                  (unsigned long long)s->mirror_bytes);
    tb_buf_printf(o, "tb_download_source_bytes{source=\"storage\"} %llu\n",
                  (unsigned long long)s->storage_bytes);
    if (p->download.moving)
        metrics_single(o, "tb_mirror_used", "gauge",
                       "1 while a download asks the mirror; 0: it fails, or gave what is not the model.",
                       strcmp(s->mirror, "used") == 0);
}

/* What the runtime has of the model. Where it does not read through tb-decrypt there is less to tell. */
static void metrics_delivery(const struct tb_picture *p, struct tb_buf *o)
{
    if (p->has_read) {
        metrics_single(o, "tb_model_read_bytes", "gauge",
                       "Bytes of the model that the runtime has read, in whole blocks.", p->read_bytes);
        metrics_single(o, "tb_model_served_bytes_total", "counter",
                       "Bytes that the runtime has read of this delivery, however often.", p->served_bytes);
    }
    if (p->has_memory)
        metrics_single(o, "tb_model_memory_bytes", "gauge",
                       "Bytes of the model that are decrypted in memory.", p->memory_bytes);
    if (p->cache_bytes > 0)
        metrics_single(o, "tb_model_cache_bytes", "gauge", "At most so many are; the rest is decrypted anew.",
                       p->cache_bytes);
    metrics_single(o, "tb_records_waiting", "gauge",
                   "Records that proved bad and are waited for until they are fetched once more.",
                   p->repairs->waiting);
    metrics_single(o, "tb_records_fetched_again_total", "counter",
                   "Records of this delivery that were fetched once more.", p->repairs->fetched);
}

static void metrics_versions(const struct tb_facts *f, struct tb_buf *o)
{
    const struct tb_update *u = &f->update;

    if (u->serving == 0)
        return;
    metrics_head(o, "tb_asset_version", "gauge",
                 "The version of the asset that serves, and the next one; 0: there is none.");
    tb_buf_printf(o, "tb_asset_version{which=\"serving\"} %llu\ntb_asset_version{which=\"next\"} %llu\n",
                  (unsigned long long)u->serving, (unsigned long long)u->next);
    metrics_head(o, "tb_update_state", "gauge", "1 for what becomes of the next version, else 0.");
    for (int i = 0; i < _TB_UPDATE_PHASE_MAX; i++)
        tb_buf_printf(o, "tb_update_state{state=\"%s\"} %d\n", tb_update_phase_name((enum tb_update_phase)i),
                      (int)u->phase == i);
}

static void metrics_timestamp(struct tb_buf *o, const char *name, const char *help, uint64_t realtime_us)
{
    if (realtime_us > 0)
        metrics_seconds(o, name, "gauge", help, (double)realtime_us / 1e6);
}

static uint64_t metrics_time(const char *text)
{
    uint64_t us;

    return tb_rfc3339_parse(text, &us) == 0 ? us : 0;
}

static void metrics_lease(const struct tb_facts *f, struct tb_buf *o)
{
    uint64_t now = tb_now_boottime_us(), left = 0;

    metrics_timestamp(o, "tb_lease_renewed_timestamp_seconds",
                      "When the lease was renewed last, since the epoch.", metrics_time(f->renewed_at));
    metrics_timestamp(o, "tb_lease_expiry_timestamp_seconds",
                      "When the lease ends and the grace begins, since the epoch.",
                      metrics_time(f->expires_at));
    if (!f->has_deadline)
        return;
    if (f->deadline_boottime_us > now)
        left = f->deadline_boottime_us - now;
    metrics_timestamp(o, "tb_lease_grace_end_timestamp_seconds",
                      "When the grace ends and serving with it, since the epoch.",
                      tb_now_realtime_us() + left);
    metrics_seconds(o, "tb_lease_remaining_seconds", "gauge", "Time until the lease and its grace are over.",
                    (double)left / 1e6);
}

static void metrics_contact(const struct tb_contact *c, struct tb_buf *o)
{
    double offset;

    if (!c->known)
        return;
    metrics_single(o, "tb_control_plane_reachable", "gauge",
                   "1 when the control plane answered the last time it was asked.", c->reachable);
    metrics_single(o, "tb_control_plane_failures", "gauge", "Tries in a row that it did not answer.",
                   c->failures);
    metrics_timestamp(o, "tb_control_plane_asked_timestamp_seconds",
                      "When it was asked last, since the epoch.", c->asked_real_us);
    if (tb_contact_clock_offset(c, tb_now_realtime_us(), tb_now_boottime_us(), &offset))
        metrics_seconds(o, "tb_clock_offset_seconds", "gauge",
                        "How far this machine's clock is ahead of the control plane's; negative: behind.",
                        offset);
}

static void metrics_certificates(const struct tb_certificate *server, const struct tb_contact *c,
                                 struct tb_buf *o)
{
    const struct {
        const char *name;
        const struct tb_certificate *cert;
    } all[] = {{"server", server}, {"client", &c->client}, {"ca", &c->ca}};

    metrics_head(o, "tb_certificate_usable", "gauge", "1 when the file holds certificates that can be read.");
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (all[i].cert->path[0])
            tb_buf_printf(o, "tb_certificate_usable{certificate=\"%s\"} %d\n", all[i].name,
                          !all[i].cert->error[0]);
    metrics_head(o, "tb_certificate_begin_timestamp_seconds", "gauge",
                 "When the certificate begins to be valid, since the epoch.");
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (all[i].cert->from_us > 0)
            tb_buf_printf(o, "tb_certificate_begin_timestamp_seconds{certificate=\"%s\"} %llu\n", all[i].name,
                          (unsigned long long)(all[i].cert->from_us / TB_USEC_PER_SEC));
    metrics_head(o, "tb_certificate_expiry_timestamp_seconds", "gauge",
                 "When the certificate ends, since the epoch.");
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (all[i].cert->until_us > 0)
            tb_buf_printf(o, "tb_certificate_expiry_timestamp_seconds{certificate=\"%s\"} %llu\n",
                          all[i].name, (unsigned long long)(all[i].cert->until_us / TB_USEC_PER_SEC));
}

static void metrics_place(struct tb_buf *o, const struct tb_place places[static _TB_PLACE_MAX],
                          const char *name, const char *help, size_t member)
{
    metrics_head(o, name, "gauge", help);
    for (int i = 0; i < _TB_PLACE_MAX; i++)
        if (places[i].known)
            tb_buf_printf(o, "%s{place=\"%s\"} %llu\n", name, tb_place_name(i),
                          (unsigned long long)*(const uint64_t *)((const char *)&places[i] + member));
}

static void metrics_places(const struct tb_place places[static _TB_PLACE_MAX], struct tb_buf *o)
{
    metrics_place(o, places, "tb_disk_size_bytes", "Size of the file system of a place where files are put.",
                  offsetof(struct tb_place, size_bytes));
    metrics_place(o, places, "tb_disk_free_bytes", "What is free of it.",
                  offsetof(struct tb_place, free_bytes));
    metrics_place(o, places, "tb_disk_low_bytes",
                  "Less than this is low: TB_DISK_LOW_BYTES, or a tenth of the size.",
                  offsetof(struct tb_place, low_bytes));
    metrics_place(o, places, "tb_disk_files", "Files that it can hold; 0: as many as there is room for.",
                  offsetof(struct tb_place, files));
    metrics_place(o, places, "tb_disk_free_files", "Files that can still be made.",
                  offsetof(struct tb_place, free_files));
}

static void metrics_read_only(const struct tb_place places[static _TB_PLACE_MAX], struct tb_buf *o)
{
    static const enum tb_place_id written[] = {TB_PLACE_AUDIT, TB_PLACE_STATE};

    metrics_head(o, "tb_disk_read_only", "gauge",
                 "1 when the file system of a place that is written to is read-only.");
    for (size_t i = 0; i < ARRAY_SIZE(written); i++)
        if (places[written[i]].known)
            tb_buf_printf(o, "tb_disk_read_only{place=\"%s\"} %d\n", tb_place_name(written[i]),
                          places[written[i]].read_only);
}

/* Restarts are what systemd made of deaths; a person's are not counted. */
static void metrics_units(const struct tb_surroundings_seen *seen, struct tb_buf *o)
{
    if (seen->n_units == 0)
        return;
    metrics_head(o, "tb_unit_active", "gauge", "1 when systemd has the unit up, or on its way there.");
    for (size_t i = 0; i < seen->n_units; i++)
        tb_buf_printf(o, "tb_unit_active{unit=\"%s\"} %d\n", seen->unit[i].name, seen->unit[i].active);
    metrics_head(o, "tb_unit_restarts_total", "counter",
                 "Times that systemd started the unit again after it had died.");
    for (size_t i = 0; i < seen->n_units; i++)
        tb_buf_printf(o, "tb_unit_restarts_total{unit=\"%s\"} %u\n", seen->unit[i].name,
                      seen->unit[i].restarts);
}

static void metrics_state(const struct tb_server *s, struct tb_buf *o)
{
    const struct tb_facts *f = &s->monitor.facts;
    struct tb_picture picture;

    metrics_head(o, "tb_state", "gauge", "1 for the state the service is in.");
    for (int i = 0; i < _TB_STATE_MAX; i++)
        tb_buf_printf(o, "tb_state{state=\"%s\"} %d\n", tb_state_name(i),
                      s->monitor.verdict.state == (enum tb_state)i);
    metrics_single(o, "tb_serving", "gauge", "1 when a request would be served now.",
                   s->monitor.verdict.state == TB_STATE_READY);
    metrics_single(o, "tb_step_failed", "gauge",
                   "1 while the step that the state waits for has failed: waiting does not help.",
                   s->monitor.verdict.failed);
    metrics_lease(f, o);
    metrics_attestation(f, o);
    tb_picture_make(f, tb_now_boottime_us(), &picture);
    metrics_steps(&picture, o);
    metrics_source(&picture, o);
    metrics_delivery(&picture, o);
    metrics_versions(f, o);
    metrics_single(o, "tb_runtime_healthy", "gauge", "1 when the runtime's health endpoint answers 200.",
                   f->runtime_healthy);
}

int tb_metrics_format(struct tb_server *s, struct tb_buf *o)
{
    struct tb_surroundings_seen seen;

    metrics_process(s, o);
    metrics_state(s, o);
    metrics_requests(&s->metrics, o);
    metrics_usage(s, o);
    metrics_audit(s, o);
    metrics_billing(s, o);
    metrics_contact(&s->monitor.facts.contact, o);
    tb_surroundings_get(&s->surroundings, &seen);
    metrics_certificates(&seen.server, &s->monitor.facts.contact, o);
    metrics_places(seen.places, o);
    metrics_read_only(seen.places, o);
    metrics_units(&seen, o);
    if (s->keys)
        metrics_single(o, "tb_api_keys_usable", "gauge",
                       "1 when TB_API_KEYS could be used when it was read last; 0: older keys are in force.",
                       !tb_key_store_trouble(s->keys)[0]);
    metrics_single(
        o, "tb_state_file_missing", "gauge",
        "1 while a file in which a program keeps its state is gone, and is not written again by itself.",
        seen.lost || s->state_files.trouble[0]);
    metrics_single(
        o, "tb_state_files_put_back_total", "counter",
        "Times that tb-proxy wrote a file of its state again that was removed or replaced while it ran.",
        s->state_files.put_back);
    return tb_buf_error(o);
}
