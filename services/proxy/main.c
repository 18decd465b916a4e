/* SPDX-License-Identifier: Apache-2.0 */
/* tb-proxy: the one public door. Up from boot, it answers 503 until the model is served, streams requests
 * to the runtime after that, and keeps an audit record and a usage count of each. See tb-proxy(8). */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/domain_file.h"
#include "common/events.h"
#include "common/exit.h"
#include "common/fdpass.h"
#include "proxy/check.h"
#include "proxy/exchange.h"
#include "proxy/admin/health.h"
#include "common/io.h"
#include "proxy/http/listen.h"
#include "common/log.h"
#include "common/notify.h"
#include "proxy/admin/page.h"
#include "proxy/request_limits.h"
#include "proxy/request_record.h"
#include "proxy/request_usage.h"
#include "proxy/gate/routes.h"
#include "common/secret.h"
#include "proxy/server.h"
#include "common/units.h"

#define DRAIN_STEP_MS 100 /* how often it is looked whether all is done */
#define DRAIN_US (30 * TB_USEC_PER_SEC)
/* How long kept-alive connections may still send a request when everything else has been drained. */
#define LINGER_US TB_USEC_PER_SEC
#define FIRST_LOOK_US (10 * TB_USEC_PER_SEC) /* a busy runtime takes a while to say that it is well */
#define AUDIT_CLOSE_MS 5000

static const char help[] =
    "Usage: tb-proxy [--help] [--version]\n"
    "Serve the public API and health ports in front of the inference runtime.\n"
    "\n"
    "Configured by TB_* environment variables (TB_PUBLIC_ADDR, TB_HEALTH_ADDR, TB_RUNTIME_URL,\n"
    "TB_RUNTIME_HEALTH, TB_ROUTES, TB_API_KEYS, TB_CORS_ORIGINS, TB_TLS_CERT, TB_TLS_KEY, "
    "TB_MAX_BODY_BYTES,\n"
    "TB_AUDIT_FILE, ...); listeners named http and health are inherited when LISTEN_FDS says so. SIGTERM "
    "finishes\n"
    "requests in flight; SIGHUP opens TB_AUDIT_FILE again and reads keys and certificate again.\n"
    "See tb-proxy(8).\n";

/* libmicrohttpd's daemon as a source of the loop. */
struct mhd_source {
    struct tb_source src;
    bool *ready;
};

struct program {
    struct tb_config config;
    struct tb_server server;
    char *run_dir, *state_dir;
    int http_fd, health_fd, signal_fd;
    struct tb_source signals;
    struct mhd_source health_source;
    bool run_health, terminate;
    struct tb_timer second, watchdog;
    uint64_t watchdog_us;
};

static void mhd_event(struct tb_source *s, uint32_t events)
{
    *((struct mhd_source *)s)->ready = true;
}

static void signal_event(struct tb_source *s, uint32_t events)
{
    struct program *p = container_of(s, struct program, signals);
    struct signalfd_siginfo info;

    while (read(p->signal_fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo != SIGHUP) {
            p->terminate = true;
            continue;
        }
        tb_audit_reopen(p->server.audit);
        tb_reload_now(&p->server);
    }
}

static void mhd_log(void *cls, const char *fmt, va_list ap)
{
    char text[300];

    vsnprintf(text, sizeof(text), fmt, ap);
    text[strcspn(text, "\n")] = '\0';
    tb_debug("libmicrohttpd: %s", text);
}

/* --- setting up, in order; each says what failed and returns the exit code ------------------------------ */

static int program_fail(int code, const char *what, int error)
{
    tb_error("%s: %s", what, strerror(-error));
    return code;
}

static int proxy_set_up_signals(struct program *p)
{
    sigset_t set;

    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    p->signals.fn = signal_event;
    if (p->signal_fd < 0)
        return -errno;
    return tb_loop_add(&p->server.loop, p->signal_fd, EPOLLIN, &p->signals);
}

static int proxy_check_config(struct program *p)
{
    const char *why = tb_routes_check(p->config.routes);

    p->server.runtime_limits.completion_max = p->config.default_max_tokens;
    if (why) {
        tb_error("TB_ROUTES: %s", why);
        return TB_EXIT_CONFIG;
    }
    why = tb_cors_parse(p->config.cors_origins, p->config.api_keys != NULL, &p->server.cors);
    if (why) {
        tb_error("TB_CORS_ORIGINS: %s", why);
        return TB_EXIT_CONFIG;
    }
    if (tb_upstream_new(&p->server.loop, p->config.runtime_url, &p->server.upstream) < 0) {
        tb_error("TB_RUNTIME_URL: cannot use %s; give http://127.0.0.1:PORT or unix:/path",
                 p->config.runtime_url);
        return TB_EXIT_CONFIG;
    }
    return 0;
}

/* What a request had cost when the previous process was killed in it. */
static void proxy_count_left(void *arg, uint64_t key, const struct tb_tokens *t)
{
    struct program *p = arg;

    tb_tokens_book(p->server.usage, t);
    if (p->server.keys && key > 0)
        tb_key_accounts_add(tb_key_store_accounts(p->server.keys), key - 1, t);
}

static int proxy_open_answers(struct program *p)
{
    _cleanup_free_ char *path = tb_path_join(p->state_dir, "flight");
    size_t found;
    int r = path ? tb_in_flight_open(path, proxy_count_left, p, &p->server.answers, &found) : -ENOMEM;

    if (r == -EBADMSG)
        tb_error("%s is not a file of in-flight requests; move it away", path);
    else if (r < 0)
        tb_error("cannot open %s/flight: %s", p->state_dir, strerror(-r));
    else if (found > 0)
        tb_info("counted %zu in-flight requests of the previous process, as estimated", found);
    return r;
}

static int proxy_open_accounting(struct program *p)
{
    _cleanup_free_ char *usage = NULL, *head = NULL;
    struct tb_audit_config audit = {
        .contract_id = p->config.contract_id,
        .asset_id = p->config.asset_id,
        .file = p->config.audit_file,
        .queue = TB_AUDIT_QUEUE,
        .journal = getenv("JOURNAL_STREAM") && access("/run/systemd/journal/socket", F_OK) == 0,
    };
    int r = tb_runtime_dir(p->config.run_dir, "tb-proxy", &p->run_dir);

    if (r < 0)
        return program_fail(TB_EXIT_IOERR, "cannot make the runtime directory", r);
    r = tb_state_dir(p->config.state_dir, "tb-proxy", &p->state_dir);
    if (r < 0) {
        tb_error("cannot use the state directory: %s", tb_state_dir_error(r));
        return TB_EXIT_IOERR;
    }
    usage = tb_path_join(p->state_dir, "usage");
    head = tb_path_join(p->state_dir, "audit-head");
    if (!usage || !head)
        return program_fail(TB_EXIT_IOERR, "state directory", -ENOMEM);
    r = tb_usage_open(usage, &p->server.usage);
    if (r < 0) {
        tb_error("cannot open %s: %s", usage,
                 r == -EWOULDBLOCK ? "another tb-proxy is running" : strerror(-r));
        return TB_EXIT_IOERR;
    }
    if (tb_reload_start(&p->server, p->state_dir) < 0)
        return TB_EXIT_CONFIG;
    r = proxy_open_answers(p);
    if (r < 0)
        return TB_EXIT_IOERR;
    p->server.requests_at_start = tb_usage_get(p->server.usage, TB_USAGE_REQUESTS);
    audit.head_file = head;
    r = tb_audit_open(&audit, &p->server.audit);
    p->server.surroundings = (struct tb_surroundings){.config = &p->config,
                                                      .audit = p->server.audit,
                                                      .state_dir = p->state_dir,
                                                      .journal = audit.journal,
                                                      .systemd = getenv("INVOCATION_ID") != NULL};
    if (r < 0) {
        tb_error("cannot open the audit (TB_AUDIT_FILE %s): %s", audit.file ? audit.file : "unset",
                 r == -EWOULDBLOCK ? "another process is writing it" : strerror(-r));
        return TB_EXIT_IOERR;
    }
    return 0;
}

/* As many clients as descriptors allow, two for each: its own and the runtime's. */
static unsigned connection_limit(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return 400;
    l.rlim_cur = MIN(l.rlim_max, 65536);
    (void)setrlimit(RLIMIT_NOFILE, &l);
    if (getrlimit(RLIMIT_NOFILE, &l) < 0 || l.rlim_cur < 256)
        return 64;
    return (unsigned)(l.rlim_cur - 64) / 2;
}

static int proxy_start_http(struct program *p)
{
    struct tb_server *s = &p->server;

    s->listener = (struct tb_listener){
        .port = {.loop = &s->loop,
                 .handler = &tb_exchange_handler,
                 .arg = s,
                 .tls = s->tls.context ? &s->tls : NULL},
        .max = connection_limit(),
        .max_per_address = p->config.connections_per_address,
    };
    return tb_listener_start(&s->listener, p->http_fd);
}

static int proxy_start_health(struct program *p)
{
    unsigned flags = MHD_USE_EPOLL | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;

    tb_health_connections_init(&p->server.health_connections);
    p->server.health = MHD_start_daemon(
        flags, 0, NULL, NULL, tb_health_handler, &p->server, MHD_OPTION_EXTERNAL_LOGGER, mhd_log, NULL,
        MHD_OPTION_NOTIFY_COMPLETED, tb_health_completed, &p->server, MHD_OPTION_LISTEN_SOCKET, p->health_fd,
        MHD_OPTION_CONNECTION_TIMEOUT, 30u, MHD_OPTION_CONNECTION_LIMIT, (unsigned)TB_HEALTH_CONNECTIONS_MAX,
        MHD_OPTION_NOTIFY_CONNECTION, tb_health_connection_notify, &p->server.health_connections,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(8 * 1024), MHD_OPTION_END);
    return p->server.health ? 0 : -EIO;
}

static int proxy_watch_health(struct program *p, struct MHD_Daemon *d, struct mhd_source *s, bool *ready)
{
    s->src.fn = mhd_event;
    s->ready = ready;
    *ready = true;
    return tb_loop_add(&p->server.loop, MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, EPOLLIN,
                       &s->src);
}

static int proxy_start_listeners(struct program *p)
{
    bool own_http, own_health; /* made here, not inherited */
    int r;

    p->http_fd = tb_listen_open("http", p->config.public_addr, -1);
    if (p->http_fd < 0) {
        tb_error("TB_PUBLIC_ADDR: cannot listen on %s: %s", p->config.public_addr, strerror(-p->http_fd));
        return TB_EXIT_CONFIG;
    }
    tb_listen_address(p->http_fd, p->server.public_addr, sizeof(p->server.public_addr));
    p->health_fd = tb_listen_open("health", p->config.health_addr, p->http_fd);
    if (p->health_fd < 0) {
        tb_error("TB_HEALTH_ADDR: cannot listen on %s: %s", p->config.health_addr, strerror(-p->health_fd));
        return TB_EXIT_CONFIG;
    }
    /* One of them was inherited and the other not: what is bound in this unit's own network reaches nobody.
     * While this process is up systemd could not start the missing socket either. */
    own_http = tb_listen_fd("http") != p->http_fd;
    own_health = tb_listen_fd("health") != p->health_fd;
    if (own_http != own_health && tb_listen_apart(p->http_fd, p->health_fd)) {
        tb_error(
            "a listener was not inherited, and one made here cannot be reached from outside; systemctl start "
            "tb-proxy.socket tb-proxy-health.socket");
        return TB_EXIT_TEMPFAIL;
    }
    r = proxy_start_health(p);
    if (r >= 0)
        r = proxy_watch_health(p, p->server.health, &p->health_source, &p->run_health);
    return r < 0 ? program_fail(TB_EXIT_IOERR, "cannot start the HTTP servers", r) : 0;
}

/* --- running -------------------------------------------------------------------------------------------- */

static uint64_t program_requests(void *arg)
{
    struct program *p = arg;

    return tb_server_requests(&p->server);
}

/* What looks at the whole program once a second: little enough to share one wake-up. */
static void second_passed(struct tb_timer *t)
{
    struct program *p = container_of(t, struct program, second);
    uint64_t now = tb_now_monotonic_us();

    (void)tb_monitor_verdict(&p->server.monitor);
    tb_state_files_tick(&p->server, p->state_dir, now);
    tb_machine_report_tick(&p->server);
    tb_runtime_fetch_tick(&p->server, now);
    tb_page_tick(&p->server, now);
    tb_events_tick(&p->server, now);
    p->run_health = true; /* its own time limits */
    tb_timer_set_period(&p->server.loop, t, TB_USEC_PER_SEC);
}

/* From the loop that serves: a loop that hangs is restarted. */
static void watchdog_due(struct tb_timer *t)
{
    struct program *p = container_of(t, struct program, watchdog);

    tb_notify_watchdog();
    tb_timer_set_period(&p->server.loop, t, p->watchdog_us);
}

static bool audit_obstructed(void *arg, char out[static TB_REASON_MAX])
{
    struct program *p = arg;

    return tb_audit_trouble(p->server.audit, out);
}

static const char *state_file_lost(void *arg)
{
    struct program *p = arg;
    struct tb_surroundings_seen seen;

    tb_surroundings_get(&p->server.surroundings, &seen);
    return seen.lost;
}

static void state_changed(void *arg)
{
    struct program *p = arg;

    tb_events_tick(&p->server, tb_now_monotonic_us());
    tb_listener_release(&p->server.listener);
}

static bool nothing_in_flight(void *arg)
{
    struct program *p = arg;

    return p->server.metrics.in_flight == 0;
}

static void proxy_start_timers(struct program *p)
{
    p->second.fn = second_passed;
    tb_timer_set_period(&p->server.loop, &p->second, TB_USEC_PER_SEC);
    p->watchdog.fn = watchdog_due;
    p->watchdog_us = tb_notify_watchdog_us();
    if (p->watchdog_us > 0)
        tb_timer_set_period(&p->server.loop, &p->watchdog, p->watchdog_us);
}

static int program_step(struct program *p, int max_ms)
{
    MHD_UNSIGNED_LONG_LONG ms;
    int r;

    if (MHD_get_timeout(p->server.health, &ms) == MHD_YES && ms == 0)
        p->run_health = true; /* it has something to do and waits for nothing */
    r = tb_loop_once(&p->server.loop, p->run_health ? 0 : max_ms);
    if (r >= 0 && p->run_health) {
        p->run_health = false;
        MHD_run(p->server.health);
    }
    return r;
}

static bool program_drained(const struct program *p, uint64_t since_us)
{
    uint64_t now = tb_now_monotonic_us();

    if (p->server.listener.n == 0 || now - since_us > DRAIN_US)
        return true;
    return p->server.metrics.in_flight == 0 && now - MAX(p->server.last_done_us, since_us) > LINGER_US;
}

/* Stops accepting and finishes what is there. The listening sockets are left alone: a plain
 * MHD_stop_daemon() would shut down the file description that systemd shares with the next process. */
static void program_drain(struct program *p)
{
    uint64_t since = tb_now_monotonic_us();

    tb_notify_stopping();
    tb_log_full(TB_LOG_INFO, TB_EVENT_DRAIN, NULL, "stopping: finishing %llu requests in flight",
                (unsigned long long)p->server.metrics.in_flight);
    p->server.draining = true;
    tb_surroundings_ask_stop(&p->server.surroundings);
    tb_listener_drain(&p->server.listener);
    while (!program_drained(p, since))
        if (program_step(p, DRAIN_STEP_MS) < 0)
            break;
    MHD_quiesce_daemon(p->server.health);
}

/* Asks the runtime before the first request is answered: a restart of the proxy is then no outage, clients
 * wait in the listener's queue meanwhile. */
static void program_first_look(struct program *p)
{
    uint64_t until = tb_now_monotonic_us() + FIRST_LOOK_US;

    tb_monitor_start(&p->server.monitor);
    while (tb_monitor_is_asking(&p->server.monitor) && !p->terminate && tb_now_monotonic_us() < until)
        if (tb_loop_once(&p->server.loop, DRAIN_STEP_MS) < 0)
            return;
    tb_monitor_look(&p->server.monitor);
}

static int program_serve(struct program *p)
{
    int r;

    p->server.monitor = (struct tb_monitor){.loop = &p->server.loop,
                                            .run_dir = p->config.run_dir,
                                            .own_dir = p->run_dir,
                                            .upstream = p->server.upstream,
                                            .health = p->config.runtime_health,
                                            .requests = program_requests,
                                            .obstacle = audit_obstructed,
                                            .lost = state_file_lost,
                                            .changed = state_changed,
                                            .idle = nothing_in_flight,
                                            .arg = p,
                                            .limits = {.upstream = p->server.upstream,
                                                       .limits = &p->server.runtime_limits,
                                                       .wanted = tb_quota_has_budgets,
                                                       .wanted_arg = &p->server}};
    r = tb_surroundings_start(&p->server.surroundings);
    if (r < 0)
        return program_fail(TB_EXIT_IOERR, "cannot start a thread", r);
    program_first_look(p);
    r = proxy_start_http(p);
    if (r < 0)
        return program_fail(TB_EXIT_IOERR, "cannot start the HTTP server", r);
    proxy_start_timers(p);
    tb_notify_ready("%s", tb_state_name(p->server.monitor.verdict.state));
    while (!p->terminate && r >= 0)
        r = program_step(p, -1);
    if (r < 0)
        return program_fail(TB_EXIT_IOERR, "event loop", r);
    program_drain(p);
    return 0;
}

static void program_clean_up(struct program *p)
{
    bool looks_on;
    size_t left;

    tb_listener_stop(&p->server.listener);
    if (p->server.health) {
        tb_events_stop(&p->server); /* libmicrohttpd does not stop with suspended connections */
        tb_runtime_fetch_tick(&p->server, UINT64_MAX);
        MHD_stop_daemon(p->server.health);
    }
    tb_events_done(&p->server.events);
    tb_monitor_stop(&p->server.monitor);
    looks_on = !tb_surroundings_stop(&p->server.surroundings);
    tb_reload_stop(&p->server);
    tb_upstream_free(p->server.upstream);
    left = p->server.audit ? tb_audit_close(p->server.audit, AUDIT_CLOSE_MS) : 0;
    if (left > 0)
        tb_error("audit: %zu records could not be written", left);
    tb_usage_close(p->server.usage);
    tb_key_store_close(p->server.keys);
    tb_background_free(p->server.background);
    free(p->server.response_sizes);
    tb_in_flight_close(p->server.answers);
    tb_close(p->signal_fd);
    tb_loop_done(&p->server.loop);
    free(p->run_dir);
    free(p->state_dir);
    tb_tls_done(&p->server.tls);
    tb_record_free_digests(&p->server);
    tb_exchange_free_spare(&p->server);
    tb_buf_free(&p->server.fields);
    if (!looks_on)
        tb_config_clear(&p->config);
}

int main(int argc, char **argv)
{
    struct program p = {.signal_fd = -1};
    int r;

    tb_config_main(argc, argv, &(struct tb_program){"tb-proxy", help, tb_proxy_check}, &p.config);
    tb_secret_init();
    p.server.config = &p.config;
    p.server.started_us = tb_now_monotonic_us();
    r = tb_loop_init(&p.server.loop);
    if (r >= 0)
        r = proxy_set_up_signals(&p);
    if (r < 0)
        return program_fail(TB_EXIT_IOERR, "event loop", r);
    r = proxy_check_config(&p);
    if (r == 0)
        r = proxy_open_accounting(&p);
    if (r == 0)
        r = proxy_start_listeners(&p);
    if (r == 0)
        r = program_serve(&p);
    program_clean_up(&p);
    return r;
}
