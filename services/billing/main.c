/* SPDX-License-Identifier: Apache-2.0 */
/* tb-billing: books the proxy's usage counters into the ledger, and reports the hours to the marketplace. */
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "billing/billing.h"
#include "common/exit.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/option.h"
#include "common/pem_check.h"
#include "common/domain_file.h"
#include "common/signals.h"
#include "common/units.h"

#define PROGRAM "tb-billing"
#define LAST_PASS_US (10 * TB_USEC_PER_SEC)

static const char help[] =
    "Usage: tb-billing\n"
    "       tb-billing ledger [--json]\n"
    "       tb-billing unreported\n"
    "       tb-billing resolve HOUR DIMENSION accepted|missing\n"
    "\n"
    "Books the usage that tb-proxy counts into an hourly SQLite ledger, each increment exactly once, and "
    "with\n"
    "TB_BILLING_ENABLED reports the hours to the Azure Marketplace. Stays in the foreground.\n"
    "\n"
    "  ledger     print hours, quantities, states and lateness (JSON with --json)\n"
    "  unreported print what of the usage the marketplace has not accepted, or is not booked yet\n"
    "  resolve    say what became of a parked event in doubt: the marketplace has it, or it is missing "
    "there\n"
    "\n"
    "  --help     this text\n"
    "  --version  the version\n"
    "\n"
    "Settings (environment): TB_BILLING_ENABLED, TB_BILLING_INTERVAL, TB_BILLING_DIMENSION,\n"
    "TB_BILLING_RESOURCE_ID, TB_BILLING_PLAN_ID, TB_METERING_ENDPOINT, TB_IMDS_ENDPOINT, TB_ARM_ENDPOINT,\n"
    "TB_STATE_DIR, TB_RUN_DIR, TB_LOG_LEVEL; see trustbridge.env(5). The commands heed TB_STATE_DIR "
    "only.\n"
    "SIGTERM books and sends once more and exits; SIGHUP does so and goes on. See tb-billing(8).\n"
    "Exit status: 0 done, 64 usage, 66 no ledger or no such event, 74 I/O, 75 another tb-billing runs,\n"
    "76 damaged ledger or counters, 78 configuration.\n";

struct ledger_options {
    bool json, want_help;
};

#define TB_OPTION_TARGET struct ledger_options
static const struct tb_option ledger_rows[] = {
    TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "as JSON"),
    TB_OPTION(0, "help", NULL, TB_OPTION_STOP, want_help, "this text"),
    TB_OPTION_END,
};

/* Everything below main() returns 0 or a negative errno, after logging what failed. */
static int billing_exit_code(int r)
{
    switch (r) {
    case 0:
        return TB_EXIT_OK;
    case -EINVAL:
        return TB_EXIT_USAGE;
    case -ENOENT:
        return TB_EXIT_NOINPUT;
    case -EWOULDBLOCK:
        return TB_EXIT_TEMPFAIL;
    case -EBADMSG:
        return TB_EXIT_DATAERR;
    case -EACCES:
        return TB_EXIT_NOPERM;
    default:
        return TB_EXIT_IOERR;
    }
}

/* -- ledger, resolve ------------------------------------------------------------------------------------- */

/* Without a configuration: an operator's shell has none. Makes nothing. */
static int ledger_open_existing(bool readonly, char **ret_path, struct tb_ledger **ret)
{
    const char *own = getenv("STATE_DIRECTORY"), *base = getenv("TB_STATE_DIR");
    char err[TB_LEDGER_ERR_MAX];
    int r;

    if (own && *own)
        *ret_path = tb_path_join(own, "ledger.db");
    else
        *ret_path = tb_strf("%s/" PROGRAM "/ledger.db", base && *base ? base : "/var/lib");
    if (!*ret_path)
        return tb_error_errno(-ENOMEM, "ledger");
    if (access(*ret_path, readonly ? R_OK : R_OK | W_OK) < 0) {
        if (errno == ENOENT) {
            tb_error("%s: no ledger yet; tb-billing makes it at its first start", *ret_path);
            return -ENOENT;
        }
        tb_error("%s: %s; run this as root or as user tb-billing", *ret_path, strerror(errno));
        return -EACCES;
    }
    r = tb_ledger_open(*ret_path, readonly, 0, ret, err);
    if (r < 0)
        tb_error("%s: %s", *ret_path, err);
    return r;
}

static int ledger_print(bool json)
{
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    _cleanup_free_ char *path = NULL;
    char err[TB_LEDGER_ERR_MAX];
    int r = ledger_open_existing(true, &path, &l);

    if (r < 0)
        return r;
    r = tb_metering_print(l, stdout, json, tb_now_realtime_us(), err);
    if (r < 0) {
        tb_error("%s: %s", path, err);
        return r;
    }
    return fflush(stdout) == 0 ? 0 : tb_error_errno(-errno, "cannot write to standard output");
}

/* argv[0] is "ledger". */
static int ledger_command(int argc, char **argv)
{
    struct tb_options parsed = {.rows = ledger_rows};
    struct ledger_options o = {0};

    if (tb_options_parse(&parsed, &o, argc, argv) < 0 || (!o.want_help && optind < argc)) {
        fprintf(stderr, PROGRAM " ledger: %s; see " PROGRAM " --help\n",
                parsed.error[0] ? parsed.error : "takes --json and nothing else");
        return -EINVAL;
    }
    if (!o.want_help)
        return ledger_print(o.json);
    fputs(help, stdout);
    return fflush(stdout) == 0 ? 0 : -EIO;
}

/* What a machine that is given up still owes. */
static int ledger_print_unreported(void)
{
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    _cleanup_free_ char *path = NULL, *usage = NULL;
    char err[TB_LEDGER_ERR_MAX];
    struct tb_usage_snapshot u;
    const char *base = getenv("TB_STATE_DIR");
    int r = ledger_open_existing(true, &path, &l), known;

    if (r < 0)
        return r;
    usage = tb_strf("%s/tb-proxy/usage", base && *base ? base : "/var/lib");
    known = usage ? tb_usage_read(usage, &u) : -ENOMEM;
    if (known < 0 && known != -ENOENT)
        tb_warn("%s: cannot read the usage counters: %s", usage ? usage : "", strerror(-known));
    r = tb_metering_print_unreported(l, stdout, known == 0 ? &u : NULL, tb_now_realtime_us(), err);
    if (r < 0) {
        tb_error("%s: %s", path, err);
        return r;
    }
    return fflush(stdout) == 0 ? 0 : tb_error_errno(-errno, "cannot write to standard output");
}

static int ledger_resolve(const char *hour, const char *dimension, const char *verdict)
{
    _cleanup_ledger_ struct tb_ledger *l = NULL;
    _cleanup_free_ char *path = NULL;
    bool accepted = strcmp(verdict, "accepted") == 0;
    char err[TB_LEDGER_ERR_MAX];
    uint64_t at;
    int r;

    if (tb_rfc3339_parse(hour, &at) < 0 || at % TB_USEC_PER_HOUR ||
        (!accepted && strcmp(verdict, "missing") != 0)) {
        fprintf(
            stderr, PROGRAM
            ": resolve needs an hour as tb-billing ledger prints it, a dimension, and accepted or missing\n");
        return -EINVAL;
    }
    r = ledger_open_existing(false, &path, &l);
    if (r < 0)
        return r;
    r = tb_metering_resolve(l, (int64_t)(at / TB_USEC_PER_HOUR), dimension, accepted, err);
    if (r < 0)
        tb_error("%s, %s: %s", hour, dimension, err);
    return r;
}

/* -- the daemon ------------------------------------------------------------------------------------------ */

/* Removed while it is open it would take with it all that it holds, when this process ends: so it does not
 * end for want of a place to write it again. */
static int billing_keep_ledger(struct tb_billing *b)
{
    char err[TB_LEDGER_ERR_MAX];
    int r = tb_ledger_keep(&b->l, b->ledger_path, err);

    b->sender.l = b->l;
    if (r < 0)
        tb_error("%s was removed or replaced: %s; trying again", b->ledger_path, err);
    if (r > 0)
        tb_warn("%s was removed or replaced; it is written again as it was", b->ledger_path);
    return b->l ? 0 : r;
}

/* One booking. A proxy that never ran has no counters yet, which is no error. */
static int billing_book(struct tb_billing *b)
{
    char err[TB_LEDGER_ERR_MAX];
    struct tb_usage_snapshot s;
    uint64_t booked = 0;
    unsigned moved = 0;
    bool book;
    int known = tb_usage_read(b->usage_path, &s), r;

    b->waiting = known == -ENOENT;
    if (known < 0 && known != -ENOENT)
        tb_warn("%s: cannot read the usage counters: %s; trying again", b->usage_path, strerror(-known));
    /* The clocks after the counters: what is in these has been served by then. */
    r = tb_billing_look(b, &book);
    if (r < 0)
        r = tb_db_error(b->l->db, r, "keeping the clock", err);
    /* And who bills it after them, too: nothing is served before that is known. */
    if (r == 0)
        r = tb_billing_heed(b, err);
    if (r == 0 && known == 0 && book)
        r = tb_ledger_book(b->l, &s, tb_billing_now(b), &booked, err);
    if (r == 0 && b->cfg->billing_enabled && book)
        r = tb_metering_advance(b->l, tb_billing_now(b), &moved, err);
    if (r < 0)
        tb_error("%s: %s", b->ledger_path, err);
    if (moved > 0)
        tb_warn("%u events could not be sent in time; their usage goes into the open hour", moved);
    return r;
}

static int billing_step(struct tb_billing *b)
{
    int r = billing_keep_ledger(b);

    if (r == 0)
        r = billing_book(b);
    tb_notify_watchdog();
    if (r == 0 && b->cfg->billing_enabled)
        r = tb_billing_submit(b);
    return r < 0 ? r : tb_billing_report(b);
}

static void billing_wait(struct tb_billing *b)
{
    struct pollfd p[] = {{.fd = b->signal_fd, .events = POLLIN}, {.fd = b->step_fd, .events = POLLIN}};
    uint64_t ms = MIN(b->cfg->billing_interval_us / 1000, 3600U * 1000), now = tb_now_boottime_us();
    uint64_t watchdog = tb_notify_watchdog_us() / 1000;

    if (b->schedule.not_before_us > now)
        ms = MIN(ms, (b->schedule.not_before_us - now) / 1000 + 1);
    if (watchdog)
        ms = MIN(ms, watchdog);
    tb_billing_watch_steps(b);
    (void)poll(p, ARRAY_SIZE(p), (int)MAX(ms, 1U));
}

static int billing_make_dirs(struct tb_billing *b)
{
    const struct tb_config *c = b->cfg;
    int r = tb_state_dir(c->state_dir, PROGRAM, &b->state_dir);

    if (r < 0)
        tb_error("%s/" PROGRAM ": cannot use the state directory: %s; check TB_STATE_DIR", c->state_dir,
                 tb_state_dir_error(r));
    else if ((r = tb_runtime_dir(c->run_dir, PROGRAM, &b->run_dir)) < 0)
        tb_error("%s/" PROGRAM ": cannot make the directory: %s; check TB_RUN_DIR", c->run_dir, strerror(-r));
    if (r < 0)
        return -EIO;
    b->ledger_path = tb_path_join(b->state_dir, "ledger.db");
    b->usage_path = tb_strf("%s/tb-proxy/usage", c->state_dir);
    return b->ledger_path && b->usage_path ? 0 : tb_error_errno(-ENOMEM, "paths");
}

/* Two submitters would each take the other's events for their own. On the directory: to open the database
 * beside SQLite and close it again would drop SQLite's locks. */
static int billing_lock(struct tb_billing *b)
{
    b->lock_fd = open(b->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->lock_fd >= 0 && flock(b->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (b->lock_fd >= 0 && errno == EWOULDBLOCK) {
        tb_error("%s: another tb-billing has this ledger", b->state_dir);
        return -EWOULDBLOCK;
    }
    tb_error("%s: cannot be locked: %s", b->state_dir, strerror(errno));
    return -EIO;
}

static int billing_start(struct tb_billing *b)
{
    char err[TB_LEDGER_ERR_MAX] = "";
    int r = billing_make_dirs(b);

    if (r == 0)
        r = billing_lock(b);
    if (r < 0)
        return r;
    b->signal_fd = tb_signals_open((const int[]){SIGHUP, 0});
    if (b->signal_fd < 0)
        return tb_error_errno(b->signal_fd, "cannot wait for signals");
    r = tb_ledger_open(b->ledger_path, false, b->cfg->billing_enabled ? b->cfg->billing_dimensions : 0, &b->l,
                       err);
    if (r < 0) {
        tb_error("%s: %s", b->ledger_path, err);
        return r;
    }
    r = tb_billing_time_start(b);
    if (r < 0) {
        r = tb_db_error(b->l->db, r, "reading the clock", err);
        tb_error("%s: %s", b->ledger_path, err);
        return r;
    }
    b->sender = (struct billing_sender){.l = b->l, .plan = b->cfg->billing_plan_id};
    tb_metering_schedule_init(&b->schedule, billing_sender_ledger(&b->sender));
    tb_azure_init(&b->azure, b->cfg);
    return 0;
}

static int billing_run(struct tb_billing *b)
{
    int r = billing_book(b);

    tb_notify_ready("Booking usage");
    while (r == 0) {
        r = billing_step(b);
        if (r < 0 || tb_billing_stopping(b))
            break;
        billing_wait(b);
        if (tb_billing_stopping(b))
            break;
    }
    if (r < 0)
        return r;
    tb_notify_stopping();
    b->give_up_us = tb_now_boottime_us() + LAST_PASS_US;
    return billing_step(b);
}

static int billing_serve(const struct tb_config *c)
{
    struct tb_billing b = {.cfg = c, .lock_fd = -1, .signal_fd = -1, .step_fd = -1};
    int r = billing_start(&b);

    if (r == 0)
        r = billing_run(&b);
    tb_azure_clear(&b.azure);
    tb_ledger_close(b.l);
    tb_close(b.signal_fd);
    tb_close(b.step_fd);
    tb_close(b.lock_fd);
    free(b.state_dir);
    free(b.run_dir);
    free(b.ledger_path);
    free(b.usage_path);
    return r;
}

/* Without billing it asks nobody. */
static void billing_check(const struct tb_config *c, struct tb_findings *f)
{
    if (c->billing_enabled && c->ca_file)
        tb_pem_check_authorities("TB_CA_FILE", c->ca_file, PROGRAM, f);
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config c = {0};

    umask(0027);
    tb_log_init(PROGRAM);
    if (argc > 1 && strcmp(argv[1], "ledger") == 0)
        return billing_exit_code(ledger_command(argc - 1, argv + 1));
    if (argc == 2 && strcmp(argv[1], "unreported") == 0)
        return billing_exit_code(ledger_print_unreported());
    if (argc == 5 && strcmp(argv[1], "resolve") == 0)
        return billing_exit_code(ledger_resolve(argv[2], argv[3], argv[4]));
    tb_config_main(argc, argv, &(struct tb_program){PROGRAM, help, billing_check}, &c);
    return billing_exit_code(billing_serve(&c));
}
