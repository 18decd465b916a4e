/* SPDX-License-Identifier: Apache-2.0 */
/* What the tests of tb-status' conclusions share: a machine that is well, what can come over it, and what each
 * row of a table asserts. A condition that only one of them needs is in that one. */
#ifndef CAUSES_TESTING_H
#define CAUSES_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "common/macros.h"
#include "status/status.h"

#define S TB_USEC_PER_SEC
#define NOW (1767866400ULL * S) /* 2026-01-08T10:00:00Z */
#define DAY (86400 * S)
#define GIB (1ULL << 30)

static struct tb_snapshot s;

static _unused_ struct tb_unit *unit(const char *name, const char *active, const char *sub)
{
    struct tb_unit *u = (struct tb_unit *)tb_status_unit(&s, name);

    if (!u) {
        u = &s.units[s.n_units++];
        *u = (struct tb_unit){.exit_code = -1, .since_realtime_us = NOW - 1000 * S};
        snprintf(u->name, sizeof(u->name), "%s", name);
        snprintf(u->load, sizeof(u->load), "loaded");
    }
    snprintf(u->active, sizeof(u->active), "%s", active);
    snprintf(u->sub, sizeof(u->sub), "%s", sub);
    return u;
}

static _unused_ void place(enum tb_place_id id, const char *path, uint64_t device, uint64_t free_bytes)
{
    s.places[id] = (struct tb_place){.known = true,
                                     .device = device,
                                     .size_bytes = 100 * GIB,
                                     .free_bytes = free_bytes,
                                     .low_bytes = GIB,
                                     .files = 1000000,
                                     .free_files = 900000};
    snprintf(s.places[id].path, sizeof(s.places[id].path), "%s", path);
}

static _unused_ void step(struct tb_step *to, enum tb_work work, const char *word, const char *reason)
{
    *to = (struct tb_step){.work = work, .bytes_done = 5, .bytes_total = 5, .written_realtime_us = NOW - S};
    snprintf(to->phase, sizeof(to->phase), "%s", word);
    snprintf(to->reason, sizeof(to->reason), "%s", reason);
}

/* A machine that serves, with nothing wrong. */
static _unused_ void well(void)
{
    static const char *const up[] = {"tb-authorize.service", "tb-billing.service", "tb-proxy.service",
                                     "tb-runtime.service",   "tb-proxy.socket",    "tb-proxy-health.socket",
                                     "trustbridge.target"};

    s = (struct tb_snapshot){.realtime_us = NOW,
                             .boottime_us = 100000 * S,
                             .units_known = true,
                             .errors_known = true,
                             .configured = true,
                             .proxy = {.came = true, .has_requests = true, .requests = 7, .state = "Ready"},
                             .client = {.addr = "0.0.0.0:8000", .answered = true},
                             .ledger = {.known = true, .age_us = 30 * S}};
    s.facts.lease = TB_LEASE_AUTHORIZED;
    s.facts.has_deadline = true;
    s.facts.deadline_boottime_us = 100000 * S + DAY;
    strcpy(s.facts.expires_at, "2026-01-08T11:00:00Z");
    s.facts.contact =
        (struct tb_contact){.known = true,
                            .reachable = true,
                            .date_real_us = NOW - 60 * S,
                            .date_boot_us = (100000 - 60) * S,
                            .client = {.path = "/c", .from_us = NOW - DAY, .until_us = NOW + 80 * DAY},
                            .ca = {.path = "/ca", .from_us = NOW - DAY, .until_us = NOW + 80 * DAY}};
    s.proxy.server =
        (struct tb_certificate){.path = "/tls", .from_us = NOW - DAY, .until_us = NOW + 80 * DAY};
    step(&s.facts.hydrate, TB_WORK_COMPLETE, "complete", "");
    step(&s.facts.decrypt, TB_WORK_COMPLETE, "complete", "");
    step(&s.facts.delivery, TB_WORK_COMPLETE, "delivered", "");
    place(TB_PLACE_AUDIT, "/var/log/trustbridge", 1, 50 * GIB);
    place(TB_PLACE_JOURNAL, "/var/log/journal", 1, 50 * GIB);
    place(TB_PLACE_STATE, "/var/lib", 1, 50 * GIB);
    place(TB_PLACE_RUN, "/run", 2, 50 * GIB);
    place(TB_PLACE_CIPHERTEXT, "/mnt/resource/trustbridge", 3, 50 * GIB);
    for (size_t i = 0; i < ARRAY_SIZE(up); i++)
        unit(up[i], "active", "running");
}

static _unused_ void proxy_says(const char *state, const char *reason)
{
    snprintf(s.proxy.state, sizeof(s.proxy.state), "%s", state);
    snprintf(s.proxy.reason, sizeof(s.proxy.reason), "%s", reason);
}

/* --- conditions of several tables -------------------------------------------------------------------------- */

static _unused_ void full_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].free_bytes = 0;
}

static _unused_ void audit_down(void)
{
    proxy_says(
        "Down",
        "audit_unavailable: /var/log/trustbridge/audit.jsonl cannot be written: No space left on device");
}

static _unused_ void low_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].free_bytes = GIB / 2;
}

static _unused_ void full_run(void)
{
    s.places[TB_PLACE_RUN].free_bytes = 4096;
}

static _unused_ void full_ciphertext(void)
{
    s.places[TB_PLACE_CIPHERTEXT].free_bytes = 0;
}

static _unused_ void socket_down(void)
{
    unit("tb-proxy.socket", "failed", "failed");
    strcpy(unit("tb-proxy.socket", "failed", "failed")->listen, "0.0.0.0:8000");
    s.client.answered = false;
    strcpy(s.client.error, "http://127.0.0.1:8000/health: Failed to connect");
}

static _unused_ void unreachable(void)
{
    s.facts.contact.reachable = false;
    s.facts.contact.failures = 1;
    strcpy(s.facts.contact.reason, "https://cp: Failed to connect");
}

static _unused_ void unreachable_long(void)
{
    unreachable();
    s.facts.lease = TB_LEASE_UNREACHABLE;
    strcpy(s.facts.lease_reason, "https://cp: Failed to connect");
    proxy_says("Ready", "control_plane_unreachable");
}

static _unused_ void clock_off(void)
{
    s.facts.contact.date_real_us -= DAY;
}

static _unused_ void clock_off_a_little(void)
{
    s.facts.contact.date_real_us -= 60 * S;
}

static _unused_ void client_expires(void)
{
    s.facts.contact.client.until_us = NOW + 3 * DAY;
}

static _unused_ void runtime_down(void)
{
    proxy_says("Decrypt", "runtime_not_answering");
}

static _unused_ void runtime_dies(void)
{
    runtime_down();
    unit("tb-runtime.service", "activating", "auto-restart")->exit_code = 1;
    strcpy(unit("tb-runtime.service", "activating", "auto-restart")->said, "unknown option --modle");
}

static _unused_ void suspended(void)
{
    proxy_says("Suspended", "contract_revoked");
    s.facts.suspended_flag = true;
    s.facts.lease = TB_LEASE_DENIED;
    strcpy(s.facts.lease_reason, "contract_revoked");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "denied");
    unit("tb-hydrate.service", "failed", "failed")->exit_code = 77;
    unit("trustbridge.target", "inactive", "dead");
}

static _unused_ void downloading(void)
{
    proxy_says("Hydrate", "downloading");
    step(&s.facts.hydrate, TB_WORK_RUNNING, "downloading", "");
    s.facts.decrypt.work = s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "activating", "start");
    unit("tb-runtime.service", "inactive", "dead");
}

/* --- the rows of a table ------------------------------------------------------------------------------------ */

struct row {
    void (*what[3])(void);
    enum tb_status_level level;
    enum tb_status_exit exit;
    size_t n;           /* problems */
    const char *first;  /* in the first problem */
    const char *remedy; /* in its remedy */
};

static _unused_ void check_rows(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct row *r = &rows[i];
        static struct tb_conclusion c;
        enum tb_status_level level;
        _cleanup_free_ char *line = NULL;

        well();
        for (size_t k = 0; k < ARRAY_SIZE(r->what) && r->what[k]; k++)
            r->what[k]();
        tb_status_conclude(&s, &c);
        line = tb_status_check(&s, &c, &level);
        assert_non_null(line);
        if (level != r->level || c.exit_code != r->exit || c.n_problems != r->n)
            fail_msg("row %zu: level %d, exit %d, %zu problems: %s; second: %s", i, level, c.exit_code,
                     c.n_problems, line, c.problems[1].what);
        if (r->first && !strstr(c.problems[0].what, r->first))
            fail_msg("row %zu: first is \"%s\"", i, c.problems[0].what);
        if (r->remedy && !strstr(c.problems[0].remedy, r->remedy))
            fail_msg("row %zu: its remedy is \"%s\"", i, c.problems[0].remedy);
        for (size_t k = 0; k < c.n_problems; k++)
            assert_true(c.problems[k].remedy[0] != '\0');
    }
}

#endif
