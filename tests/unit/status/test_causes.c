/* SPDX-License-Identifier: Apache-2.0 */
/* What is told first, what is left out as its consequence, and what a monitoring system gets: one row for each
 * condition, and for what comes together. */
#include <setjmp.h>
#include <stdarg.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "status/status.h"

#define S TB_USEC_PER_SEC
#define NOW (1767866400ULL * S) /* 2026-01-08T10:00:00Z */
#define DAY (86400 * S)
#define GIB (1ULL << 30)

static struct tb_snapshot s;

static struct tb_unit *unit(const char *name, const char *active, const char *sub)
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

static void place(enum tb_place_id id, const char *path, uint64_t device, uint64_t free_bytes)
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

static void step(struct tb_step *to, enum tb_work work, const char *word, const char *reason)
{
    *to = (struct tb_step){.work = work, .bytes_done = 5, .bytes_total = 5, .written_realtime_us = NOW - S};
    snprintf(to->phase, sizeof(to->phase), "%s", word);
    snprintf(to->reason, sizeof(to->reason), "%s", reason);
}

/* A machine that serves, with nothing wrong. */
static void well(void)
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

static void proxy_says(const char *state, const char *reason)
{
    snprintf(s.proxy.state, sizeof(s.proxy.state), "%s", state);
    snprintf(s.proxy.reason, sizeof(s.proxy.reason), "%s", reason);
}

/* --- the conditions ------------------------------------------------------------------------------------- */

static void nothing(void)
{
}

static void full_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].free_bytes = 0;
}

static void audit_down(void)
{
    proxy_says(
        "Down",
        "audit_unavailable: /var/log/trustbridge/audit.jsonl cannot be written: No space left on device");
}

static void audit_readonly(void)
{
    proxy_says("Down", "audit_unavailable: /a/audit.jsonl cannot be written: Read-only file system");
}

static void low_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].free_bytes = GIB / 2;
}

static void no_files(void)
{
    s.places[TB_PLACE_STATE].free_files = 0;
}

static void full_run(void)
{
    s.places[TB_PLACE_RUN].free_bytes = 4096;
}

static void full_ciphertext(void)
{
    s.places[TB_PLACE_CIPHERTEXT].free_bytes = 0;
}

static void no_room_to_download(void)
{
    full_ciphertext();
    proxy_says("Hydrate", "not enough disk space in /mnt/resource/trustbridge");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "not enough disk space in /mnt/resource/trustbridge");
    s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "activating", "auto-restart")->exit_code = 74;
    unit("tb-runtime.service", "inactive", "dead");
}

static void socket_down(void)
{
    unit("tb-proxy.socket", "failed", "failed");
    strcpy(unit("tb-proxy.socket", "failed", "failed")->listen, "0.0.0.0:8000");
    s.client.answered = false;
    strcpy(s.client.error, "http://127.0.0.1:8000/health: Failed to connect");
}

static void refused(void)
{
    s.client.answered = false;
    strcpy(s.client.error, "http://127.0.0.1:8000/health: Failed to connect");
}

static void proxy_dies(void)
{
    unit("tb-proxy.service", "activating", "auto-restart")->exit_code = 74;
    strcpy(unit("tb-proxy.service", "activating", "auto-restart")->said,
           "cannot open /var/lib/tb-proxy/usage");
    s.proxy = (struct tb_status_answer){.error = "refused"};
    s.client.answered = false;
}

static void proxy_silent(void)
{
    s.proxy = (struct tb_status_answer){.error = "timed out"};
    s.client.answered = false;
}

static void proxy_stopped(void)
{
    unit("tb-proxy.service", "inactive", "dead");
    s.proxy = (struct tb_status_answer){.error = "refused"};
    s.client.answered = false;
}

/* Those who watch cannot get in; clients can. */
static void health_port_silent(void)
{
    s.proxy = (struct tb_status_answer){.error = "timed out"};
    s.client.serves = true;
}

static void unreachable(void)
{
    s.facts.contact.reachable = false;
    s.facts.contact.failures = 1;
    strcpy(s.facts.contact.reason, "https://cp: Failed to connect");
}

static void unreachable_long(void)
{
    unreachable();
    s.facts.lease = TB_LEASE_UNREACHABLE;
    strcpy(s.facts.lease_reason, "https://cp: Failed to connect");
    proxy_says("Ready", "control_plane_unreachable");
}

static void not_yet_valid(void)
{
    unreachable();
    strcpy(s.facts.contact.reason, "https://cp: SSL certificate problem: certificate is not yet valid");
}

/* Booted with a clock of long ago: nothing has been reached that could tell the time. */
static void booted_in_the_past(void)
{
    proxy_says("Authorize", "https://cp: SSL certificate problem: certificate is not yet valid");
    s.facts.lease = TB_LEASE_PENDING;
    strcpy(s.facts.lease_reason, "https://cp: SSL certificate problem: certificate is not yet valid");
    not_yet_valid();
    s.facts.contact.date_real_us = 0;
    s.facts.contact.client.from_us = s.facts.contact.ca.from_us = s.proxy.server.from_us = NOW + 900 * DAY;
    s.facts.contact.client.until_us = s.facts.contact.ca.until_us = s.proxy.server.until_us = NOW + 999 * DAY;
    s.facts.hydrate.work = s.facts.decrypt.work = s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-runtime.service", "inactive", "dead");
}

static void clock_a_year_ahead(void)
{
    s.realtime_us += 365 * DAY;
    s.facts.hydrate.written_realtime_us = NOW;
}

/* The certificates are new, and by the other clock have not begun. */
static void clock_off_with_new_certificates(void)
{
    s.facts.contact.date_real_us -= DAY;
    s.facts.contact.client.from_us = s.facts.contact.ca.from_us = s.proxy.server.from_us = NOW - 60 * S;
}

static void clock_off(void)
{
    s.facts.contact.date_real_us -= DAY;
}

static void clock_off_a_little(void)
{
    s.facts.contact.date_real_us -= 60 * S;
}

static void client_garbage(void)
{
    s.facts.contact.client = (struct tb_certificate){.path = "/etc/c.pem", .error = "holds no certificate"};
    unreachable();
}

static void server_expired(void)
{
    s.proxy.server.until_us = NOW - S;
}

static void client_expires(void)
{
    s.facts.contact.client.until_us = NOW + 3 * DAY;
}

static void decrypt_failed(void)
{
    proxy_says("Decrypt", "model.tbenc, record 7: not authentic");
    step(&s.facts.decrypt, TB_WORK_FAILED, "failed", "model.tbenc, record 7: not authentic");
    step(&s.facts.delivery, TB_WORK_FAILED, "failed", "tb-decrypt: status 76");
    unit("tb-decrypt.service", "failed", "failed")->exit_code = 76;
    unit("tb-runtime.service", "failed", "failed")->exit_code = 76;
}

static void fifo_closed(void)
{
    decrypt_failed();
    step(&s.facts.decrypt, TB_WORK_FAILED, "failed",
         "the reader closed the FIFO after 1048576 of 3017440 bytes");
}

static void runtime_down(void)
{
    proxy_says("Decrypt", "runtime_not_answering");
}

static void runtime_dies(void)
{
    runtime_down();
    unit("tb-runtime.service", "activating", "auto-restart")->exit_code = 1;
    strcpy(unit("tb-runtime.service", "activating", "auto-restart")->said, "unknown option --modle");
}

static void suspended(void)
{
    proxy_says("Suspended", "contract_revoked");
    s.facts.suspended_flag = true;
    s.facts.lease = TB_LEASE_DENIED;
    strcpy(s.facts.lease_reason, "contract_revoked");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "denied");
    unit("tb-hydrate.service", "failed", "failed")->exit_code = 77;
    unit("trustbridge.target", "inactive", "dead");
}

static void billing_stuck(void)
{
    s.ledger.age_us = 3600 * S;
}

static void runtime_hangs(void)
{
    s.proxy.silent_s = 301;
}

static void lease_file_cut(void)
{
    s.facts.broken = "tb-authorize/lease.json";
    s.facts.broken_error = -EBADMSG;
}

static void downloading(void)
{
    proxy_says("Hydrate", "downloading");
    step(&s.facts.hydrate, TB_WORK_RUNNING, "downloading", "");
    s.facts.decrypt.work = s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "activating", "start");
    unit("tb-runtime.service", "inactive", "dead");
}

/* By hand, when it had all; the runtime goes with it. */
static void hydrate_stopped(void)
{
    proxy_says("Decrypt", "waiting_for_runtime");
    unit("tb-hydrate.service", "inactive", "dead");
    unit("tb-runtime.service", "inactive", "dead");
    s.facts.delivery.work = TB_WORK_ABSENT;
}

static void hydrate_stopped_in_its_work(void)
{
    hydrate_stopped();
    proxy_says("Hydrate", "stopped by a signal; progress is kept, the next start goes on");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "stopped by a signal; progress is kept");
    s.facts.decrypt.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "failed", "failed")->killed_by = SIGTERM;
}

static void hydrate_about_to_start(void)
{
    hydrate_stopped();
    strcpy(unit("tb-hydrate.service", "inactive", "dead")->job, "start");
}

static void runtime_stopped(void)
{
    hydrate_stopped();
    unit("tb-hydrate.service", "active", "exited");
}

static void runtime_about_to_start(void)
{
    runtime_stopped();
    strcpy(unit("tb-runtime.service", "inactive", "dead")->job, "start");
}

/* By somebody who cleaned /run, while the inference server serves. */
static void delivery_removed(void)
{
    proxy_says("Decrypt", "state_file_lost: tb-runtime/delivery.json");
    s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "active", "exited");
}

static void lease_removed(void)
{
    proxy_says("Boot", "starting");
    s.facts.lease = TB_LEASE_ABSENT;
}

static void runtime_just_started(void)
{
    delivery_removed();
    unit("tb-runtime.service", "active", "running")->since_realtime_us = NOW - S;
}

static void counters_lost(void)
{
    strcpy(s.proxy.state_trouble,
           "/s/usage was removed, and cannot be written again: No space left on device");
}

static void keys_wrong(void)
{
    strcpy(s.proxy.keys_trouble, "line 2 is no key");
}

/* As a kernel does with a disk that fails. */
static void read_only_var(void)
{
    for (int i = TB_PLACE_AUDIT; i <= TB_PLACE_STATE; i++)
        s.places[i].read_only = true;
}

static void read_only_state(void)
{
    s.places[TB_PLACE_STATE].read_only = true;
    s.places[TB_PLACE_STATE].device = 7;
    unit("tb-billing.service", "activating", "auto-restart")->exit_code = 74;
}

static void read_only_ciphertext(void)
{
    s.places[TB_PLACE_CIPHERTEXT].read_only = true;
}

/* --- the table ------------------------------------------------------------------------------------------ */

struct row {
    void (*what[3])(void);
    enum tb_status_level level;
    enum tb_status_exit exit;
    size_t n;           /* problems */
    const char *first;  /* in the first problem */
    const char *remedy; /* in its remedy */
};

static const struct row rows[] = {
    {{nothing}, TB_STATUS_OK, TB_STATUS_READY, 0, NULL, NULL},
    {{downloading}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{full_var},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the disk of /var/log/trustbridge is full (0 B of",
     "df -h"},
    {{full_var, audit_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the disk of /var/log/trustbridge is full",
     "logrotate -f"},
    {{audit_readonly},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "no request is served: audit_unavailable: /a/",
     "df"},
    {{low_var},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/var/log/trustbridge is getting full (512.0 MiB of",
     "df -h"},
    {{no_files}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "0 of 1000000 files (inodes) left", "df -h"},
    {{full_run}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "the disk of /run is full", "du -xsh /run/*"},
    {{full_ciphertext},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/mnt/resource/trustbridge is full",
     "TB_TARGET_DIR"},
    {{no_room_to_download},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "/mnt/resource/trustbridge is full",
     "df -h"},
    {{socket_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.socket has failed: nobody listens on 0.0.0.0:8000",
     "systemctl start tb-proxy.socket tb-proxy.service"},
    {{refused},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "clients cannot connect to 0.0.0.0:8000: http://",
     "systemctl start tb-proxy.socket"},
    {{proxy_dies},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "it said: cannot open /var/lib/tb-proxy/usage",
     "journalctl --namespace=trustbridge -u tb-proxy.service"},
    {{proxy_silent},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy does not answer: timed out",
     "systemctl status tb-proxy.service"},
    {{proxy_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.service is stopped",
     "systemctl start tb-proxy.service"},
    {{socket_down, proxy_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-proxy.socket has failed",
     "ss -ltnp"},
    {{health_port_silent},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "requests are served, but the health port does not",
     "tb-proxy-health.socket"},
    {{unreachable},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the control plane does not answer: https://cp",
     "firewall"},
    {{unreachable_long},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the control plane does not answer: https://cp",
     "serving goes on until the grace ends"},
    {{not_yet_valid}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "certificate is not yet valid", "clock"},
    {{clock_off},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine is 1 d 0 h ahead of",
     "date -u -s 2026-01-07T10:00:0"},
    {{clock_off_a_little}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "is 1 min ahead of", "timedatectl"},
    {{clock_off, not_yet_valid},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine",
     "date -u -s"},
    {{booted_in_the_past}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "no lease yet: https://cp", "date -u"},
    {{clock_off_with_new_certificates},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine",
     NULL},
    {{clock_a_year_ahead},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "the clock of this machine is 365 d 0 h ahead",
     "date -u -s 2026-01-08T"},
    {{client_garbage},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the client certificate /etc/c.pem holds no certificate",
     "systemctl restart tb-authorize.service"},
    {{server_expired},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "/tls has expired on 2026-01-08",
     "replace it"},
    {{client_expires}, TB_STATUS_WARNING, TB_STATUS_READY, 1, "/c expires in 3 d 0 h", "ask the provider"},
    {{decrypt_failed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-decrypt.service: model.tbenc, record 7",
     "-u tb-decrypt.service"},
    {{fifo_closed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the reader closed the FIFO after 1048576",
     "set TB_DELIVERY=dir"},
    {{runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "does not answer 200 to TB_RUNTIME_HEALTH",
     "TB_RUNTIME_URL"},
    {{runtime_dies},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "exit 1; it said: unknown option --modle",
     "-u tb-runtime.service"},
    {{hydrate_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-hydrate.service is stopped, and without it",
     "systemctl start tb-hydrate.service"},
    {{hydrate_stopped_in_its_work},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-hydrate.service is stopped, and without it",
     "systemctl start tb-hydrate.service"},
    {{hydrate_about_to_start}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{runtime_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-runtime.service is stopped",
     "systemctl start tb-runtime.service"},
    {{delivery_removed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-runtime/delivery.json was removed while tb-runtime.service runs",
     "systemctl restart tb-runtime.service"},
    {{lease_removed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-authorize/lease.json was removed",
     "systemctl restart tb-authorize.service"},
    {{runtime_just_started}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{read_only_var, audit_readonly},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the file system of /var/log/trustbridge is read-only: no request",
     "mount -o remount,rw $(findmnt"},
    {{read_only_state},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "the file system of /var/lib is read-only: usage cannot be booked",
     "-T /var/lib)"},
    {{read_only_ciphertext},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "/mnt/resource/trustbridge is read-only",
     "-k"},
    {{keys_wrong}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "cannot be used: line 2", "tb-configure --check"},
    {{counters_lost}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "/s/usage was removed", "writable"},
    {{runtime_about_to_start}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{hydrate_stopped, suspended}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "refuses this contract", NULL},
    {{suspended},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "refuses this contract: contract_revoked",
     "resumes by itself"},
    {{lease_file_cut},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "tb-authorize/lease.json cannot be read: Bad message",
     "restart tb-authorize.service"},
    {{runtime_hangs},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "has said nothing for 5 min",
     "restart tb-runtime.service"},
    {{billing_stuck},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "usage has not been booked for 1 h",
     "tb-billing.service"},
    /* what comes together: the cause that keeps requests out first, then in the order of what explains more */
    {{client_expires, low_var, full_run},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     3,
     "the disk of /run is full",
     NULL},
    {{unreachable_long, runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "control plane does not answer",
     NULL},
    {{suspended, full_run}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 2, "refuses this contract", NULL},
    {{low_var, socket_down, clock_off},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     3,
     "tb-proxy.socket has failed",
     NULL},
    {{full_var, audit_down, runtime_dies}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 2, "is full", NULL},
    {{clock_off_a_little, runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "TB_RUNTIME_HEALTH",
     NULL},
    {{full_ciphertext, socket_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     2,
     "tb-proxy.socket has failed",
     NULL},
    {{downloading, unreachable}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "does not answer", NULL},
};

static void test_each_condition(void **unused)
{
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
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

static void test_the_line(void **unused)
{
    static struct tb_conclusion c;
    enum tb_status_level level;
    _cleanup_free_ char *line = NULL;

    well();
    tb_status_conclude(&s, &c);
    line = tb_status_check(&s, &c, &level);
    assert_string_equal(
        line,
        "TRUSTBRIDGE OK: Ready, 7 requests, may serve for 1 d 0 h | requests=7c lease=3600s "
        "grace=86400s;3600:;1: "
        "control_plane_failures=0;0 clock=0s;-30:30 ledger_age=30s;900 "
        "free_audit=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_journal=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_state=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_run=53687091200B;1073741824:;65536:;0;107374182400 "
        "free_ciphertext=53687091200B;1073741824:;65536:;0;107374182400 "
        "cert_server=6912000s;1209600:;1: cert_client=6912000s;1209600:;1: cert_ca=6912000s;1209600:;1:");
    free(TAKE_PTR(line));
    unreachable();
    strcpy(s.facts.contact.reason, "a | b");
    tb_status_conclude(&s, &c);
    line = tb_status_check(&s, &c, &level);
    assert_int_equal(level, TB_STATUS_WARNING);
    assert_non_null(
        strstr(line, "TRUSTBRIDGE WARNING: Ready, the control plane does not answer: a / b -> check "));
    assert_ptr_equal(strchr(line, '|'), strrchr(line, '|')); /* the figures' own */
    assert_null(strchr(line, '\n'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_condition),
        cmocka_unit_test(test_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
