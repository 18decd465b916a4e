/* SPDX-License-Identifier: Apache-2.0 */
/* tb-billing: books the proxy's usage counters into the ledger every TB_BILLING_INTERVAL and once more when stopped. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include "config.h"
#include "exit.h"
#include "io.h"
#include "ledger.h"
#include "log.h"
#include "notify.h"
#include "state.h"
#include "units.h"

static const char help[] =
    "Usage: tb-billing\n"
    "       tb-billing ledger [--json]\n"
    "\n"
    "Books usage: reads the counters that tb-proxy keeps and adds what is new to hourly quantities in a\n"
    "SQLite ledger, each increment exactly once. Stays in the foreground; SIGTERM books once more and "
    "exits.\n"
    "`ledger` prints the hours, quantities and states instead.\n"
    "\n"
    "      --help     this text\n"
    "      --version  the version\n"
    "\n"
    "Settings (environment): TB_STATE_DIR, TB_BILLING_INTERVAL, TB_LOG_LEVEL; see tb-billing(8).\n"
    "Exit status: 0 done, 64 usage, 74 I/O, 76 damaged ledger, 78 configuration.\n";

static int exit_code(int r)
{
    return r == -EBADMSG ? TB_EXIT_DATAERR : TB_EXIT_IOERR;
}

static int ledger_path(const struct tb_config *c, char **ret)
{
    _cleanup_free_ char *dir = NULL;
    int r = tb_state_dir(c->state_dir, "tb-billing", &dir);

    if (r < 0) {
        tb_error("%s/tb-billing: cannot make the state directory: %s; check TB_STATE_DIR", c->state_dir,
                 strerror(-r));
        return r;
    }
    *ret = tb_path_join(dir, "ledger.db");
    return *ret ? 0 : -ENOMEM;
}

static int print_ledger(const struct tb_config *c, int json)
{
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    _cleanup_free_ char *path = NULL;
    char err[TB_LEDGER_ERR_MAX];
    int r = ledger_path(c, &path);

    if (r < 0)
        return TB_EXIT_IOERR;
    if (access(path, F_OK) < 0) {
        tb_error("%s: no ledger yet; tb-billing makes it at its first start", path);
        return TB_EXIT_NOINPUT;
    }
    r = tb_ledger_open(path, 1, &l, err);
    if (r == 0)
        r = tb_ledger_print(l, stdout, json, err);
    if (r < 0)
        tb_error("%s: %s", path, err);
    if (r == 0 && fflush(stdout) != 0)
        return TB_EXIT_IOERR;
    return r < 0 ? exit_code(r) : TB_EXIT_OK;
}

/* One booking. A proxy that never ran has no counters yet, which is no error. */
static int book(struct tb_ledger *l, const char *usage)
{
    char err[TB_LEDGER_ERR_MAX], now[TB_RFC3339_MAX];
    struct tb_usage_snapshot s;
    uint64_t booked = 0, requests = 0;
    int r = tb_usage_read(usage, &s);

    if (r == -ENOENT) {
        tb_notify_status("Waiting for the first request");
        return 0;
    }
    if (r < 0) {
        tb_warn("%s: cannot read the usage counters: %s; will try again", usage, strerror(-r));
        return 0;
    }
    r = tb_ledger_book(l, &s, tb_now_realtime_us(), &booked, err);
    if (r < 0) {
        tb_error("ledger: %s", err);
        return r;
    }
    (void)tb_ledger_total(l, TB_USAGE_REQUESTS, &requests);
    tb_notify_status("%" PRIu64 " requests booked up to %s", requests,
                     tb_rfc3339_format(tb_now_realtime_us(), 0, now));
    if (booked > 0)
        tb_debug("booked increments of epoch %.8s", s.epoch);
    return 0;
}

static int block_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    return signalfd(-1, &set, SFD_CLOEXEC);
}

/* true: time to stop. SIGHUP books at once. */
static bool wait_interval(int sfd, uint64_t us)
{
    struct pollfd p = {.fd = sfd, .events = POLLIN};
    uint64_t ms = MIN(us / 1000, 3600U * 1000), watchdog = tb_notify_watchdog_us() / 1000;
    struct signalfd_siginfo si;

    if (watchdog)
        ms = MIN(ms, watchdog);
    if (poll(&p, 1, (int)MAX(ms, 1U)) <= 0)
        return false;
    return read(sfd, &si, sizeof(si)) == sizeof(si) && si.ssi_signo != SIGHUP;
}

static int run(const struct tb_config *c)
{
    _cleanup_free_ char *path = NULL, *usage = tb_strf("%s/tb-proxy/usage", c->state_dir);
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    _cleanup_close_ int sfd = block_signals();
    char err[TB_LEDGER_ERR_MAX] = "";
    bool ready = false;
    int r;

    if (sfd < 0 || !usage || ledger_path(c, &path) < 0)
        return TB_EXIT_IOERR;
    r = tb_ledger_open(path, 0, &l, err);
    if (r < 0) {
        tb_error("%s: %s", path, err);
        return exit_code(r);
    }
    for (;;) {
        r = book(l, usage);
        if (r < 0)
            return exit_code(r);
        tb_notify_watchdog();
        if (!ready)
            tb_notify_ready("Booking usage");
        ready = true;
        if (wait_interval(sfd, c->billing_interval_us))
            break;
    }
    tb_notify_stopping();
    r = book(l, usage);
    return r < 0 ? exit_code(r) : TB_EXIT_OK;
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config c = {0};
    bool ledger = argc >= 2 && strcmp(argv[1], "ledger") == 0;
    bool json = ledger && argc == 3 && strcmp(argv[2], "--json") == 0;

    if (ledger) {
        int skip = json ? 2 : 1;

        argv[skip] = argv[0];
        argc -= skip;
        argv += skip;
    }
    umask(0027);
    tb_config_main(argc, argv, "tb-billing", help, &c);
    return ledger ? print_ledger(&c, json) : run(&c);
}
