/* SPDX-License-Identifier: Apache-2.0 */
/* tb-status: one screen that says how the appliance is. Changes nothing, needs no privilege. */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "status/status.h"
#include "common/option.h"
#include "common/units.h"
#include "common/version.h"

#define WIDTH_DEFAULT 80
#define HEIGHT_DEFAULT 24
#define WIDTH_MAX 200
#define WATCH_DEFAULT_S 2

struct status_options {
    bool json, check, watch, terminal, colour, want_help, want_version;
    uint64_t every_s;
    const char *run_dir;     /* TB_RUN_DIR, or NULL: the machine's own chain */
    const char *health_addr; /* TB_HEALTH_ADDR, or NULL */
    const char *public_addr; /* TB_PUBLIC_ADDR, or NULL */
};

#define TB_OPTION_TARGET struct status_options
static const struct tb_option status_rows[] = {
    TB_OPTION(0, "json", NULL, TB_OPTION_FLAG, json, "the same as one JSON object"),
    TB_OPTION('c', "check", NULL, TB_OPTION_FLAG, check,
              "one line for a monitoring system, with\nfigures; exit status 0 OK, 1 WARNING,\n2 CRITICAL, "
              "3 UNKNOWN"),
    TB_OPTION('w', "watch", "SECONDS", TB_OPTION_UINT, every_s,
              "again every 2 (or so many) seconds: redrawn\non a terminal; else a line for each change,\n"
              "and with --json an object each time",
              .optional = true, .min = 1, .max = 86400),
    TB_OPTION(0, "help", NULL, TB_OPTION_STOP, want_help, "this text"),
    TB_OPTION(0, "version", NULL, TB_OPTION_STOP, want_version, "the version"),
    TB_OPTION_END,
};

static void status_print_help(void)
{
    puts("Usage: tb-status [--json | --check] [--watch[=SECONDS]]\n\n"
         "Shows state, progress, lease, units and last errors of the TrustBridge appliance on this "
         "machine.\n");
    tb_options_help(status_rows, stdout, NULL);
    puts("\nAny user may run it; the errors in the journal are for root and group systemd-journal.\n"
         "Exit status: 0 Ready, 1 error, 2 wrong command line, 3 not Ready, 4 nothing of TrustBridge here.\n"
         "See tb-status(8).");
}

static void status_refuse_arguments(const char *what, bool check)
{
    fprintf(stderr, "tb-status: %s; see tb-status --help\n", what);
    exit(check ? (int)TB_STATUS_UNSURE : (int)TB_STATUS_USAGE);
}

static void status_parse_arguments(int argc, char **argv, struct status_options *o)
{
    struct tb_options parsed = {.rows = status_rows};

    if (tb_options_parse(&parsed, o, argc, argv) < 0)
        status_refuse_arguments(parsed.error, o->check);
    if (o->want_help)
        status_print_help();
    else if (o->want_version)
        puts("tb-status " TB_VERSION);
    if (o->want_help || o->want_version)
        exit(fflush(stdout) == 0 ? 0 : TB_STATUS_ERROR);
    o->watch = tb_options_given(&parsed, "watch");
    if (optind < argc)
        status_refuse_arguments("takes no arguments", o->check);
    if (o->check && (o->json || o->watch))
        status_refuse_arguments("--check goes with neither --json nor --watch", true);
}

static struct winsize status_window(void)
{
    struct winsize w;

    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0 || w.ws_col == 0 || w.ws_row == 0)
        w = (struct winsize){.ws_col = WIDTH_DEFAULT, .ws_row = HEIGHT_DEFAULT};
    return w;
}

/* Where there is no terminal COLUMNS says how long a line may be. */
static int status_width(const struct status_options *o)
{
    unsigned long columns = strtoul(getenv("COLUMNS") ? getenv("COLUMNS") : "", NULL, 10);

    if (o->terminal)
        return MIN((int)status_window().ws_col, WIDTH_MAX);
    return columns > 0 && columns <= INT_MAX ? (int)columns : WIDTH_DEFAULT;
}

/* A chain under another TB_RUN_DIR is not the one that systemd runs: neither its units nor its journal are
 * asked. */
static void status_look(const struct status_options *o, struct tb_snapshot *s)
{
    static const char elsewhere[] =
        "not asked, since TB_RUN_DIR is set: that chain is not the one systemd runs";
    const char *addr = o->health_addr;

    *s = (struct tb_snapshot){.realtime_us = tb_now_realtime_us(), .boottime_us = tb_now_boottime_us()};
    tb_status_read_files(o->run_dir ? o->run_dir : "/run", s);
    if (o->run_dir) {
        snprintf(s->units_note, sizeof(s->units_note), "systemd: %s", elsewhere);
        snprintf(s->errors_note, sizeof(s->errors_note), "journal: %s", elsewhere);
    } else {
        tb_status_read_units(s);
        tb_status_read_errors(s);
        tb_status_read_said(s);
    }
    if (!addr)
        addr = s->health_listen[0] ? s->health_listen : "0.0.0.0:8001";
    tb_status_ask_proxy(addr, &s->proxy);
    tb_status_ask_public(o->public_addr        ? o->public_addr
                         : s->public_listen[0] ? s->public_listen
                                               : s->proxy.public_addr,
                         &s->client);
    tb_status_measure_places(o->run_dir, s);
    tb_status_make_plain(s);
}

/* In place: no line is blank for an instant, so that nothing flickers. What is below the window would scroll
 * its head away. */
static void status_redraw(const char *text)
{
    int room = status_window().ws_row - 1;

    fputs("\033[H", stdout);
    for (const char *end; room > 0 && (end = strchr(text, '\n')); text = end + 1, room--)
        printf("%.*s\033[K\n", (int)(end - text), text);
    fputs("\033[J", stdout);
}

/* In a pipe a line is worth printing when it says something new. */
static void status_print_line(const char *line, uint64_t realtime_us)
{
    static char last[512];
    char now[TB_RFC3339_MAX];

    if (strncmp(line, last, sizeof(last) - 1) == 0)
        return;
    snprintf(last, sizeof(last), "%s", line);
    printf("%s %s\n", tb_rfc3339_format(realtime_us, 0, now), line);
}

static int status_show(const struct status_options *o, const struct tb_snapshot *s,
                       const struct tb_conclusion *c)
{
    _cleanup_free_ char *text = NULL;

    if (o->json)
        text = tb_status_json(s, c, o->watch);
    else if (o->watch && !o->terminal)
        text = tb_status_line(s, c);
    else
        text = tb_status_render(s, c, o->colour, status_width(o));
    if (!text)
        return -ENOMEM;
    if (o->json)
        puts(text);
    else if (!o->watch)
        fputs(text, stdout);
    else if (o->terminal)
        status_redraw(text);
    else
        status_print_line(text, s->realtime_us);
    return fflush(stdout) == 0 ? 0 : -errno;
}

static int status_check(const struct tb_snapshot *s, const struct tb_conclusion *c)
{
    enum tb_status_level level = TB_STATUS_UNSURE;
    _cleanup_free_ char *line = tb_status_check(s, c, &level);

    puts(line ? line : "TRUSTBRIDGE UNKNOWN: out of memory");
    return fflush(stdout) == 0 && line ? (int)level : (int)TB_STATUS_UNSURE;
}

int main(int argc, char **argv)
{
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");
    struct status_options o = {.every_s = WATCH_DEFAULT_S,
                               .run_dir = getenv("TB_RUN_DIR"),
                               .health_addr = getenv("TB_HEALTH_ADDR"),
                               .public_addr = getenv("TB_PUBLIC_ADDR")};
    static struct tb_conclusion c;
    static struct tb_snapshot s;
    int r;

    status_parse_arguments(argc, argv, &o);
    o.terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    o.colour = o.terminal && (!no_color || !*no_color);
    if (o.run_dir && !*o.run_dir)
        o.run_dir = NULL;
    if (o.health_addr && !*o.health_addr)
        o.health_addr = NULL;
    if (o.public_addr && !*o.public_addr)
        o.public_addr = NULL;
    if (o.watch && o.terminal && !o.json)
        fputs("\033[2J", stdout);
    for (;;) {
        status_look(&o, &s);
        tb_status_conclude(&s, &c);
        if (o.check)
            return status_check(&s, &c);
        r = status_show(&o, &s, &c);
        if (r < 0) {
            fprintf(stderr, "tb-status: cannot write: %s\n", strerror(-r));
            return TB_STATUS_ERROR;
        }
        if (!o.watch)
            return (int)c.exit_code;
        tb_sleep_ms(o.every_s * 1000);
    }
}
