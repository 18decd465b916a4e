/* SPDX-License-Identifier: Apache-2.0 */
/* What this process counts, for Prometheus. No ids: a label is one of a few words. Any thread, no lock. */
#ifndef CP_METRICS_H
#define CP_METRICS_H

#include <stdint.h>

/* X(name, labels, what): counters, in the order in which they are printed; rows of a name stand together. */
#define CP_METRICS(X)                                                                                        \
    X(VERDICT_AUTHORIZED, "verdicts_total", "verdict=\"authorized\"", "Answers to authorize requests.")      \
    X(VERDICT_DENIED, "verdicts_total", "verdict=\"denied\"", "")                                            \
    X(LIMITED_CLIENT, "limited_total", "limit=\"client\"", "Requests refused because there are too many.")   \
    X(LIMITED_CONTRACT, "limited_total", "limit=\"contract\"", "")                                           \
    X(LIMITED_GUESS, "limited_total", "limit=\"guess\"", "")                                                 \
    X(LIMITED_QUEUE, "limited_total", "limit=\"queue\"", "")                                                 \
    X(GUESS_CONTRACT, "guesses_total", "of=\"contract\"", "Contracts, codes, tokens that do not exist.")     \
    X(GUESS_CODE, "guesses_total", "of=\"code\"", "")                                                        \
    X(GUESS_TOKEN, "guesses_total", "of=\"token\"", "")                                                      \
    X(GUESS_SIG, "guesses_total", "of=\"sig\"", "")                                                          \
    X(USAGE_GOOD, "usage_reports_total", "flag=\"none\"", "Usage reports, by why a person should look.")     \
    X(USAGE_BACK, "usage_reports_total", "flag=\"back\"", "")                                                \
    X(USAGE_LATE, "usage_reports_total", "flag=\"late\"", "")                                                \
    X(USAGE_CLONE, "usage_reports_total", "flag=\"clone\"", "")                                              \
    X(USAGE_STRANGER, "usage_reports_total", "flag=\"stranger\"", "")                                        \
    X(USAGE_UNSIGNED, "usage_reports_total", "flag=\"unsigned\"", "")                                        \
    X(REGISTERED, "registrations_total", "result=\"kept\"", "Registrations.")                                \
    X(REGISTER_REFUSED, "registrations_total", "result=\"refused\"", "")                                     \
    X(NOTICE_KEPT, "notices_total", "result=\"kept\"", "Notifications of managed applications.")             \
    X(NOTICE_REFUSED, "notices_total", "result=\"refused\"", "")                                             \
    X(FAILED_STORE, "failures_total", "of=\"database\"", "Requests that failed for a reason of ours.")       \
    X(FAILED_KEY_SERVICE, "failures_total", "of=\"key_service\"", "")                                        \
    X(FAILED_STORAGE, "failures_total", "of=\"storage\"", "")                                                \
    X(FAILED_MAA, "failures_total", "of=\"attestation_service\"", "")                                        \
    X(FAILED_SETTINGS, "failures_total", "of=\"settings\"", "")                                              \
    X(FAILED_MARKETPLACE, "failures_total", "of=\"marketplace\"", "")                                        \
    X(EVENT_ACCEPTED, "metering_events_total", "verdict=\"accepted\"",                                       \
      "Verdicts of the marketplace on metering events.")                                                     \
    X(EVENT_DUPLICATE, "metering_events_total", "verdict=\"duplicate\"", "")                                 \
    X(EVENT_EXPIRED, "metering_events_total", "verdict=\"expired\"", "")                                     \
    X(EVENT_REFUSED, "metering_events_total", "verdict=\"refused\"", "")

/* X(name, metric, labels, what): what is so now, of a server with --submit. */
#define CP_GAUGES(X)                                                                                         \
    X(SUBMITTER_ACTIVE, "submitter_active", "", "1: this server reports usage to the marketplace.")          \
    X(EVENTS_OPEN, "metering_events", "{state=\"open\"}", "Metering events that are not accepted.")          \
    X(EVENTS_FROZEN, "metering_events", "{state=\"frozen\"}", "")                                            \
    X(EVENTS_SENT, "metering_events", "{state=\"sent\"}", "")                                                \
    X(EVENTS_PARKED, "metering_events", "{state=\"parked\"}", "")                                            \
    X(EVENTS_DOUBT, "metering_events_in_doubt", "", "Parked events that a person must resolve.")             \
    X(UNACCEPTED_AGE, "metering_unaccepted_age_seconds", "", "Age of the oldest usage not accepted.")        \
    X(HELD_RESOURCE, "metering_held_sources", "{why=\"no_resource\"}",                                       \
      "Machines whose usage is not billed here though their contract is.")                                   \
    X(HELD_SELF_BILLING, "metering_held_sources", "{why=\"self_billing\"}", "")

#define CP_METRIC_ENUM(name, metric, labels, help) CP_METRIC_##name,
enum cp_metric { CP_METRICS(CP_METRIC_ENUM) _CP_METRIC_MAX };

#define CP_GAUGE_ENUM(name, metric, labels, help) CP_GAUGE_##name,
enum cp_gauge { CP_GAUGES(CP_GAUGE_ENUM) _CP_GAUGE_MAX };

void cp_metric_add(enum cp_metric m);
/* From the first call on all gauges are shown. */
void cp_gauge_set(enum cp_gauge g, uint64_t value);
/* A request was answered, after so long since all of it was there. */
void cp_metric_answered(unsigned status, uint64_t took_us);
/* Heap text in Prometheus' format, or NULL. */
char *cp_metrics_text(void);

#endif
