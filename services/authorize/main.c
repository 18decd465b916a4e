/* SPDX-License-Identifier: Apache-2.0 */
/* tb-authorize: asks the control plane, holds the lease and what it grants in memory, releases each
 * credential to the one unit that may have it, suspends the machine on denial. One loop owns everything; the
 * exchange has a thread of its own. */
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "common/config.h"
#include "common/contact.h"
#include "common/events.h"
#include "authorize/check.h"
#include "authorize/exchange.h"
#include "common/domain_file.h"
#include "common/exit.h"
#include "common/fdpass.h"
#include "authorize/lease_files.h"
#include "authorize/grant.h"
#include "common/io.h"
#include "authorize/lease.h"
#include "common/log.h"
#include "common/notify.h"
#include "authorize/release.h"
#include "common/usage_report.h"
#include "common/secret.h"
#include "common/serving.h"
#include "common/signals.h"
#include "common/units.h"

#define PROGRAM "tb-authorize"
#define EXTEND_EVERY_US (10 * TB_USEC_PER_SEC)
#define EXTEND_US (30 * TB_USEC_PER_SEC)
#define FILES_RETRY_US TB_USEC_PER_SEC
#define FILES_LOOK_US (10 * TB_USEC_PER_SEC) /* whether somebody removed them */
/* Between renewals, so that an outage is known within a minute and not when the lease is about to end. */
#define LOOK_EVERY_US (30 * TB_USEC_PER_SEC)
/* An exchange ends by its own limits (2 s, 30 s) long before: past this the thread hangs and the watchdog may
 * bite. */
#define EXCHANGE_STUCK_US (90 * TB_USEC_PER_SEC)

enum { POLL_SIGNAL, POLL_TIMER, POLL_EXCHANGE, POLL_LISTEN, POLL_WAITING };

static const char help[] =
    "Usage: tb-authorize\n"
    "\n"
    "Asks the control plane whether this machine may run the asset, and releases SAS URLs and the key to the "
    "units\n"
    "that may have them, on the release socket (TB_RUN_DIR/tb-keys.sock, or inherited as \"keys\").\n"
    "\n"
    "Settings come from the environment; required: TB_CONTRACT_ID, TB_ASSET_ID, TB_EDC_ENDPOINT.\n"
    "Also: TB_CA_FILE, TB_CLIENT_CERT_PATH and TB_CLIENT_KEY_PATH (mTLS), TB_LEASE_GRACE (24h), "
    "TB_INSECURE_HTTP,\n"
    "TB_RUN_DIR (/run), TB_STATE_DIR (/var/lib), TB_LOG_LEVEL.\n"
    "Credentials, all optional: enrolment-code, client-cert, client-key, product-uuid.\n"
    "\n"
    "  --help     this text\n"
    "  --version  the version\n"
    "\n"
    "SIGHUP asks the control plane now. See tb-authorize(8).\n";

struct daemon {
    struct tb_config cfg;
    struct tb_lease_files files;
    struct tb_lease lease;
    struct authorize_exchange *exchange;
    struct tb_grants grants;
    uint64_t asked_held; /* the version that the control plane was last asked for beside the current one */
    /* Secret memory; NULL: no grant yet. It outlives the grant: what was served before a refusal is told with
     * the refused exchanges. */
    struct tb_key *report_key;
    struct tb_handouts handouts[_TB_RELEASE_FOR_MAX];
    struct tb_releases releases;
    uint64_t started, finished; /* exchanges, counted */
    uint64_t in_vain_us;        /* when somebody last had waited for one for long */
    uint64_t exchange_since_us;
    bool looking; /* what is under way is a look, not an exchange */
    uint64_t next_look_us;
    struct tb_contact contact;
    uint64_t files_due_us; /* when they are written, or looked at, again */
    bool files_broken;
    uint64_t watchdog_us, next_watchdog_us, next_extend_us;
    enum tb_lease_state logged_state; /* what was logged last */
    bool logged_suspended, ready, quit;
    bool request_again; /* SIGHUP came during an exchange, whose answer may be older than what it is about */
    char logged_reason[TB_REASON_MAX];
    char endpoint[160]; /* for messages */
    int signal_fd, timer_fd;
};

static void files_update(struct daemon *d, const struct tb_clock *now)
{
    int r = tb_lease_files_write(&d->files, &d->lease, now);

    if (r < 0 && !d->files_broken)
        tb_error("cannot write the state of the lease to %s and %s: %s; trying again until it works",
                 d->files.run_dir, d->files.state_dir, strerror(-r));
    d->files_broken = r < 0;
    d->files_due_us = now->boot_us + (r < 0 ? FILES_RETRY_US : FILES_LOOK_US);
}

static uint64_t seconds_until(uint64_t then_us, uint64_t now_us)
{
    return then_us > now_us ? (then_us - now_us + TB_USEC_PER_SEC - 1) / TB_USEC_PER_SEC : 0;
}

static void lease_describe(const struct daemon *d, const struct tb_clock *now, char *out, size_t len)
{
    const struct tb_lease *l = &d->lease;
    unsigned long long next = seconds_until(l->next_request_boot_us, now->boot_us);
    char when[TB_RFC3339_MAX];

    if (l->suspended)
        snprintf(out, len, "Suspended: %s; asking again in %llu s", l->reason, next);
    else if (l->state == TB_LEASE_PENDING && l->failures == 0)
        snprintf(out, len, "Asking %s", d->endpoint);
    else if (l->state == TB_LEASE_PENDING)
        snprintf(out, len, "Waiting for the control plane (try %u failed: %s); next try in %llu s",
                 l->failures, l->reason, next);
    else if (l->state == TB_LEASE_AUTHORIZED && l->expires_real_us == 0)
        snprintf(out, len, "Authorized");
    else if (l->state == TB_LEASE_AUTHORIZED)
        snprintf(out, len, "Authorized until %s", tb_rfc3339_format(l->expires_real_us, 0, when));
    else if (l->deadline_boot_us == 0)
        snprintf(out, len, "Serving on, the control plane cannot be reached: %s", l->reason);
    else
        snprintf(out, len, "Serving on for %llu s, the control plane cannot be reached: %s",
                 (unsigned long long)seconds_until(l->deadline_boot_us, now->boot_us), l->reason);
}

/* Tells systemd, and the log where there is something new. */
static void lease_report(struct daemon *d, const struct tb_clock *now)
{
    const struct tb_lease *l = &d->lease;
    bool news = l->state != d->logged_state || l->suspended != d->logged_suspended ||
                strcmp(l->reason, d->logged_reason) != 0;
    char text[2 * TB_REASON_MAX + 160], reason[TB_REASON_MAX + 16];
    const char *const fields[] = {reason, NULL};
    bool well = l->state == TB_LEASE_AUTHORIZED ||
                (l->state == TB_LEASE_PENDING && l->failures == 0 && !l->suspended);
    const char *event = NULL;

    lease_describe(d, now, text, sizeof(text));
    if (!d->ready && l->state != TB_LEASE_PENDING) {
        d->ready = true;
        tb_notify_ready("%s", text);
    } else {
        tb_notify_status("%s", text);
    }
    if (!news) {
        tb_debug("%s", text);
        return;
    }
    snprintf(reason, sizeof(reason), "TB_REASON=%s", l->reason);
    if (l->suspended != d->logged_suspended)
        event = l->suspended ? TB_EVENT_SUSPENDED : TB_EVENT_RESUMED;
    tb_log_full(well ? TB_LOG_INFO : TB_LOG_WARN, event, fields, "%s", text);
    d->logged_state = l->state;
    d->logged_suspended = l->suspended;
    snprintf(d->logged_reason, sizeof(d->logged_reason), "%s", l->reason);
}

static void grants_take(struct daemon *d, struct authorize_verdict *v, const struct tb_clock *now)
{
    tb_grants_clear(&d->grants);
    d->grants.current = TAKE_PTR(v->grant);
    d->grants.held = TAKE_PTR(v->held);
    for (int i = 0; i < _TB_RELEASE_FOR_MAX; i++)
        d->handouts[i] = (struct tb_handouts){.granted_us = now->boot_us};
}

static void lease_changed(struct daemon *d, const struct tb_clock *now)
{
    /* The flag first: it stops the chain. */
    files_update(d, now);
    if (d->lease.suspended)
        tb_grants_clear(&d->grants);
    lease_report(d, now);
}

/* Who no longer pays is denied, whatever the control plane says or cannot say. */
static void subscription_heed(struct daemon *d, struct authorize_verdict *v)
{
    char reason[TB_REASON_MAX];

    if (!tb_lease_files_subscription_ended(d->cfg.state_dir, reason))
        return;
    authorize_verdict_clear(v);
    *v = (struct authorize_verdict){.retry_after_ms = -1};
    tb_outcome_set(&v->outcome, AUTHORIZE_DENIED, "%s", reason);
}

/* An exchange, not a look: whoever waits for its answer can wait for this one. */
static bool daemon_is_asking(const struct daemon *d)
{
    return authorize_exchange_busy(d->exchange) && !d->looking;
}

/* What was seen of the control plane is left for those who watch. */
static void contact_note(struct daemon *d, const struct authorize_verdict *v, const struct tb_clock *now)
{
    struct tb_contact *c = &d->contact;
    int r;

    c->known = true;
    c->reachable = v->outcome.code != AUTHORIZE_RETRY;
    c->failures = c->reachable ? 0 : c->failures + 1;
    snprintf(c->reason, sizeof(c->reason), "%.*s", TB_REASON_MAX - 1, c->reachable ? "" : v->outcome.reason);
    c->asked_real_us = now->real_us;
    c->asked_boot_us = now->boot_us;
    if (v->date_real_us > 0) {
        c->date_real_us = v->date_real_us;
        c->date_boot_us = v->date_boot_us;
    }
    c->client = v->client;
    c->ca = v->ca;
    d->next_look_us = now->boot_us + LOOK_EVERY_US;
    r = tb_contact_write(d->files.run_dir, c);
    if (r < 0)
        tb_debug("cannot write %s/" TB_CONTACT_NAME ": %s", d->files.run_dir, strerror(-r));
}

static void report_key_renew(struct daemon *d)
{
    if (!d->report_key)
        d->report_key = tb_secret_alloc(sizeof(*d->report_key));
    if (d->report_key && tb_grant_report_key(d->grants.current, d->report_key) < 0)
        tb_secret_freep(&d->report_key);
}

static void exchange_ended(struct daemon *d)
{
    _cleanup_verdict_ struct authorize_verdict v = {0};
    struct tb_clock now;

    if (!authorize_exchange_take(d->exchange, &v))
        return;
    now = tb_clock_now();
    contact_note(d, &v, &now);
    if (d->looking) {
        d->looking = false;
        if (v.outcome.code == AUTHORIZE_RETRY)
            tb_lease_ask_soon(&d->lease, &now);
        return;
    }
    subscription_heed(d, &v);
    d->finished = d->started;
    tb_lease_apply(&d->lease, &v, &now);
    if (v.outcome.code == AUTHORIZE_GRANTED) {
        grants_take(d, &v, &now);
        report_key_renew(d);
    }
    if (d->request_again)
        tb_lease_ask_soon(&d->lease, &now);
    d->request_again = false;
    lease_changed(d, &now);
}

/* A unit asks for one credential after another, and somebody has just waited for a fresher URL. The one there
 * is has not ended. */
static bool renewal_is_vain(const struct daemon *d, const struct tb_grant *g, enum tb_credential cred,
                            const struct tb_clock *judged, const struct tb_clock *now)
{
    uint64_t end_us = g ? tb_sas_expiry_us(g->sas_url) : 0;

    return g && cred != TB_CRED_MODEL_KEY && d->in_vain_us > 0 &&
           now->boot_us - d->in_vain_us < TB_RELEASE_REUSE_US && (end_us == 0 || end_us > judged->real_us);
}

/* True when the wait for a fresher URL is over, one way or the other: the old one is better than none. */
static bool renewal_over(struct daemon *d, struct tb_waiting *w, uint64_t serving, const struct tb_clock *now)
{
    if (w->exchange == 0) {
        bool asking = daemon_is_asking(d), fits = asking && d->asked_held == serving;

        w->exchange = fits ? d->started : d->started + 1;
        w->deadline_us = now->boot_us + TB_RELEASE_RENEW_WAIT_US;
        if (!fits)
            tb_lease_ask_soon(&d->lease, now);
        d->request_again |= asking && !fits;
        return false;
    }
    if (d->finished < w->exchange && now->boot_us < w->deadline_us)
        return false;
    /* or not in vain: then what is released next is fresh */
    if (now->boot_us + TB_RELEASE_RENEW_WAIT_US - w->deadline_us >= TB_RELEASE_LONG_WAIT_US)
        d->in_vain_us = now->boot_us;
    return true;
}

/* The end of a SAS is judged by the control plane's clock: a wrong one here must not keep an old URL, nor
 * refuse a new one. */
static struct tb_clock release_clock(const struct daemon *d, const struct tb_clock *now)
{
    struct tb_clock c = *now;

    if (d->contact.date_real_us > 0 && d->contact.date_boot_us <= now->boot_us)
        c.real_us = d->contact.date_real_us + (now->boot_us - d->contact.date_boot_us);
    return c;
}

/* Answers waiting connection i if that can be done now. */
static void release_settle(struct daemon *d, size_t i, uint64_t serving, const struct tb_clock *judged,
                           const struct tb_clock *now)
{
    struct tb_waiting *w = &d->releases.waiting[i];
    enum tb_credential cred = w->cred;
    struct tb_handouts *h = &d->handouts[tb_peer_for(&w->peer)];
    bool missing;
    const struct tb_grant *g = tb_release_grant(&d->grants, tb_peer_for(&w->peer), serving, &missing);
    enum tb_release_answer a = tb_release_decide(&d->lease, g, h, tb_release_judged_as(&w->peer), judged);

    if (a == TB_RELEASE_GIVE && missing)
        a = TB_RELEASE_RENEW;
    if (a == TB_RELEASE_RENEW && !missing && renewal_is_vain(d, g, cred, judged, now))
        a = TB_RELEASE_GIVE;
    if (a == TB_RELEASE_RENEW && renewal_over(d, w, serving, now))
        a = TB_RELEASE_GIVE;
    if (a == TB_RELEASE_GIVE) {
        tb_releases_give(&d->releases, i, g);
        if (h->first_us[cred] == 0)
            h->first_us[cred] = now->boot_us;
    } else if (a == TB_RELEASE_REFUSE) {
        tb_releases_refuse(&d->releases, i, d->lease.reason);
    }
}

/* From the end, as an answered one is replaced by the last. */
static void releases_settle(struct daemon *d, const struct tb_clock *now)
{
    uint64_t serving = d->releases.n > 0 ? tb_serving_version(d->cfg.target_dir, d->cfg.asset_id) : 0;
    struct tb_clock judged = release_clock(d, now);

    for (size_t i = d->releases.n; i-- > 0;)
        release_settle(d, i, serving, &judged, now);
}

/* With each exchange goes what tb-billing has counted: where several machines share one subscription the
 * provider adds it up. */
static char *usage_report(const struct daemon *d)
{
    _cleanup_free_ char *path = tb_strf("%s/tb-billing/report.json", d->cfg.run_dir);
    char *text = NULL;
    size_t len;

    return d->report_key && path && tb_read_file(path, TB_REPORT_MAX, &text, &len) == 0 ? text : NULL;
}

/* While all is well; else the exchange itself is tried often enough. */
static bool daemon_may_look(const struct daemon *d)
{
    return d->lease.state == TB_LEASE_AUTHORIZED && !d->lease.suspended && d->lease.failures == 0;
}

static void exchange_start_if_due(struct daemon *d, const struct tb_clock *now)
{
    _cleanup_free_ char *report = NULL;

    if (authorize_exchange_busy(d->exchange))
        return;
    if (!tb_lease_due(&d->lease, now)) {
        if (daemon_may_look(d) && now->boot_us >= d->next_look_us) {
            d->looking = true;
            d->exchange_since_us = now->boot_us;
            authorize_exchange_look(d->exchange);
        }
        return;
    }
    d->started++;
    d->exchange_since_us = now->boot_us;
    report = usage_report(d);
    d->asked_held = tb_serving_held(d->cfg.target_dir, d->cfg.asset_id, d->lease.asset_version);
    authorize_exchange_start(d->exchange, d->asked_held, report, d->report_key);
}

static void daemon_keep_alive(struct daemon *d, const struct tb_clock *now)
{
    bool stuck =
        authorize_exchange_busy(d->exchange) && now->boot_us - d->exchange_since_us > EXCHANGE_STUCK_US;

    if (d->watchdog_us > 0 && !stuck && now->boot_us >= d->next_watchdog_us) {
        d->next_watchdog_us = now->boot_us + d->watchdog_us;
        tb_notify_watchdog();
    }
    if (!d->ready && now->boot_us >= d->next_extend_us) {
        d->next_extend_us = now->boot_us + EXTEND_EVERY_US;
        tb_notify_extend(EXTEND_US);
    }
}

/* Everything that time alone, or what just happened, makes due. */
static void daemon_advance(struct daemon *d, const struct tb_clock *now)
{
    if (tb_lease_tick(&d->lease, now))
        lease_changed(d, now);
    else if (now->boot_us >= d->files_due_us && (d->files_broken || tb_lease_files_miss(&d->files)))
        files_update(d, now);
    else if (now->boot_us >= d->files_due_us)
        d->files_due_us = now->boot_us + FILES_LOOK_US;
    releases_settle(d, now);
    exchange_start_if_due(d, now);
    daemon_keep_alive(d, now);
}

static uint64_t daemon_wakeup_us(const struct daemon *d)
{
    uint64_t at = tb_lease_wakeup_us(&d->lease, authorize_exchange_busy(d->exchange));

    for (size_t i = 0; i < d->releases.n; i++)
        if (d->releases.waiting[i].exchange > 0)
            at = MIN(at, d->releases.waiting[i].deadline_us);
    at = MIN(at, d->files_due_us);
    if (daemon_may_look(d) && !authorize_exchange_busy(d->exchange))
        at = MIN(at, d->next_look_us);
    if (d->watchdog_us > 0)
        at = MIN(at, d->next_watchdog_us);
    return d->ready ? at : MIN(at, d->next_extend_us);
}

/* A timer, not poll's timeout, so that a deadline that passed while the machine slept is seen at once. */
static int daemon_set_timer(const struct daemon *d)
{
    uint64_t at = daemon_wakeup_us(d);
    struct itimerspec its = {0};

    if (at != UINT64_MAX) {
        its.it_value.tv_sec = (time_t)(at / TB_USEC_PER_SEC);
        its.it_value.tv_nsec = (long)(at % TB_USEC_PER_SEC * 1000) + 1; /* 0 would switch it off */
    }
    return timerfd_settime(d->timer_fd, TFD_TIMER_ABSTIME, &its, NULL) < 0 ? -errno : 0;
}

static void daemon_take_signal(struct daemon *d)
{
    struct tb_clock now = tb_clock_now();

    for (int signo; (signo = tb_signals_next(d->signal_fd)) > 0;) {
        if (signo != SIGHUP) {
            d->quit = true;
            continue;
        }
        tb_info("SIGHUP: asking the control plane now");
        tb_lease_ask_soon(&d->lease, &now);
        d->request_again = daemon_is_asking(d);
    }
}

/* Until there is an answer to give, connections stay in the listen queue: where systemd holds the socket they
 * outlive a restart there, while one that this process accepted and lost would read as a refusal. */
static bool releases_may_accept(const struct daemon *d)
{
    return (d->grants.current || d->lease.suspended) && d->releases.n < TB_RELEASE_WAITING_MAX;
}

static int daemon_wait(struct daemon *d)
{
    struct pollfd p[POLL_WAITING + TB_RELEASE_WAITING_MAX] = {
        [POLL_SIGNAL] = {.fd = d->signal_fd, .events = POLLIN},
        [POLL_TIMER] = {.fd = d->timer_fd, .events = POLLIN},
        [POLL_EXCHANGE] = {.fd = authorize_exchange_fd(d->exchange), .events = POLLIN},
        [POLL_LISTEN] = {.fd = releases_may_accept(d) ? d->releases.listen_fd : -1, .events = POLLIN},
    };
    size_t n = d->releases.n;
    uint64_t ticks;

    /* A client shuts its sending side at once; only a hang-up of both sides says that it is gone. */
    for (size_t i = 0; i < n; i++)
        p[POLL_WAITING + i] = (struct pollfd){.fd = d->releases.waiting[i].fd};
    if (poll(p, POLL_WAITING + n, -1) < 0)
        return errno == EINTR ? 0 : -errno;
    for (size_t i = n; i-- > 0;)
        if (p[POLL_WAITING + i].revents & (POLLHUP | POLLERR | POLLNVAL))
            tb_releases_drop(&d->releases, i);
    if (p[POLL_TIMER].revents)
        (void)!read(d->timer_fd, &ticks, sizeof(ticks));
    if (p[POLL_SIGNAL].revents)
        daemon_take_signal(d);
    if (p[POLL_EXCHANGE].revents)
        exchange_ended(d);
    if (p[POLL_LISTEN].revents)
        tb_releases_accept(&d->releases);
    return 0;
}

static int daemon_run(struct daemon *d)
{
    while (!d->quit) {
        struct tb_clock now = tb_clock_now();
        int r;

        daemon_advance(d, &now);
        r = daemon_set_timer(d);
        if (r == 0)
            r = daemon_wait(d);
        if (r < 0)
            return tb_error_errno(r, "cannot wait for events");
    }
    return 0;
}

static int keys_listen(const struct daemon *d)
{
    int fd = tb_listen_or_bind("keys", d->cfg.run_dir, SOCK_STREAM, NULL);

    if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    return fd;
}

static int files_start(struct daemon *d, const struct tb_clock *now)
{
    int r =
        tb_lease_files_init(&d->files, d->cfg.run_dir, d->cfg.state_dir, d->cfg.contract_id, d->cfg.asset_id);

    if (r < 0) {
        tb_error("cannot use the directories of tb-authorize in %s and %s: %s", d->cfg.run_dir,
                 d->cfg.state_dir, tb_state_dir_error(r));
        return r;
    }
    r = tb_lease_files_restore(&d->files, &d->lease, now);
    return r < 0 ? tb_error_errno(r, "cannot write to %s and %s", d->files.run_dir, d->files.state_dir) : 0;
}

static int daemon_start(struct daemon *d)
{
    struct tb_clock now = tb_clock_now();
    int r;

    r = authorize_client_key_check(&d->cfg);
    if (r < 0)
        return r;
    /* Whoever sees the lease's file may send SIGHUP. */
    d->signal_fd = tb_signals_open((const int[]){SIGHUP, 0});
    if (d->signal_fd < 0)
        return tb_error_errno(d->signal_fd, "cannot wait for signals");
    tb_lease_init(&d->lease, d->cfg.lease_grace_us, &now);
    /* Before anything else: a restart never clears a suspension. */
    r = files_start(d, &now);
    if (r < 0)
        return r;
    d->releases.listen_fd = keys_listen(d);
    if (d->releases.listen_fd < 0)
        return d->releases.listen_fd;
    d->timer_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    if (d->timer_fd < 0)
        return tb_error_errno(-errno, "cannot make a timer");
    r = authorize_exchange_new(&d->cfg, &d->exchange);
    if (r < 0)
        return tb_error_errno(r, "cannot start a thread");
    tb_url_redact(d->cfg.edc_endpoint, d->endpoint, sizeof(d->endpoint));
    tb_info("contract %s, asset %s, control plane %s", d->cfg.contract_id, d->cfg.asset_id, d->endpoint);
    if (d->lease.suspended)
        tb_warn("suspended since an earlier run: %s", d->lease.reason);
    d->watchdog_us = tb_notify_watchdog_us();
    lease_report(d, &now);
    return 0;
}

static void daemon_stop(struct daemon *d, int rc)
{
    tb_notify_stopping();
    /* Whoever waits for a fresher URL gets the one there is: to be dropped would read as a refusal. */
    while (d->releases.n > 0 && d->grants.current) {
        bool missing;

        tb_releases_give(&d->releases, 0,
                         tb_release_grant(&d->grants, tb_peer_for(&d->releases.waiting[0].peer),
                                          tb_serving_version(d->cfg.target_dir, d->cfg.asset_id), &missing));
    }
    tb_grants_clear(&d->grants);
    tb_secret_freep(&d->report_key);
    /* The thread may be half a minute away from its answer: leave without it, and without exit handlers
     * beside it. */
    if (authorize_exchange_busy(d->exchange))
        _exit(rc);
    authorize_exchange_free(d->exchange);
    tb_lease_files_clear(&d->files);
    tb_config_clear(&d->cfg);
    tb_close(d->releases.listen_fd);
    tb_close(d->signal_fd);
    tb_close(d->timer_fd);
}

int main(int argc, char **argv)
{
    static struct daemon d;
    int r, rc;

    tb_secret_init();
    authorize_response_setup();
    tb_config_main(argc, argv, &(struct tb_program){PROGRAM, help, authorize_check}, &d.cfg);
    r = daemon_start(&d);
    if (r < 0)
        return r == -EINVAL ? TB_EXIT_CONFIG : TB_EXIT_IOERR;
    r = daemon_run(&d);
    rc = r < 0 ? TB_EXIT_IOERR : TB_EXIT_OK;
    daemon_stop(&d, rc);
    return rc;
}
