/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong with the units: failed, restless, stopped. No I/O. */
#include <inttypes.h>
#include <signal.h>
#include <string.h>

#include "common/exit.h"
#include "common/macros.h"
#include "status/conclude.h"

/* What the state waits for, or ended by, keeps requests from being served; the rest is for later. */
enum tb_status_level tb_status_work_level(const struct tb_status_work *w)
{
    return w->c->exit_code == TB_STATUS_READY || tb_status_requests_wait(w->s, w->c) ? TB_STATUS_WARNING
                                                                                     : TB_STATUS_CRITICAL;
}

/* What a program meant by its exit code; "" for a code that is nobody's. */
static const char *unit_exit_meaning(int code)
{
    switch (code) {
    case TB_EXIT_USAGE:
        return "wrong command line";
    case TB_EXIT_NOINPUT:
        return "an input is missing";
    case TB_EXIT_IOERR:
        return "I/O error, disk full or not enough memory";
    case TB_EXIT_TEMPFAIL:
        return "to be tried again";
    case TB_EXIT_DATAERR:
        return "integrity: the data is not what manifest or key say";
    case TB_EXIT_NOPERM:
        return "denied";
    case TB_EXIT_CONFIG:
        return "configuration";
    case 203: /* the last three are systemd's own, systemd.exec(5) */
        return "cannot be executed";
    case 226:
        return "its sandbox cannot be made";
    case 243:
        return "its credentials could not be loaded";
    default:
        return "";
    }
}

static void unit_how_it_ended(const struct tb_unit *u, char *out, size_t size)
{
    const char *meaning = unit_exit_meaning(u->exit_code);

    if (u->killed_by)
        snprintf(out, size, "killed by signal %u (SIG%s)", u->killed_by,
                 sigabbrev_np((int)u->killed_by) ? sigabbrev_np((int)u->killed_by) : "?");
    else if (u->exit_code > 0)
        snprintf(out, size, "exit %d%s%s", u->exit_code, *meaning ? ", " : "", meaning);
    else
        snprintf(out, size, "%s", u->result);
}

bool tb_status_unit_failing(const struct tb_unit *u)
{
    return u && (strcmp(u->active, "failed") == 0 || strncmp(u->sub, "auto-restart", 12) == 0);
}

/* trustbridge.env was found wrong, when it was to be applied or when a program was started. */
void tb_status_add_settings(struct tb_status_work *w)
{
    static const char *const units[] = {"tb-configure.service", "tb-settings.service"};
    struct tb_status_problem *p = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        const struct tb_unit *u = tb_status_unit(w->s, units[i]);

        if (!tb_status_unit_failing(u) || u->exit_code != TB_EXIT_CONFIG)
            continue;
        tb_status_explain(w, units[i]);
        if (!p)
            p = tb_status_add(
                w->c, tb_status_work_level(w),
                "/etc/trustbridge/trustbridge.env has errors; what was in force before still is%s%s",
                w->s->settings_error[0] ? ". The first: " : "", w->s->settings_error);
    }
    if (p)
        tb_status_remedy(
            p, "tb-configure --check names each with its line; correct them, then systemctl restart "
               "tb-configure.service");
}

/* A unit that failed, or that is started over and over. */
static void conclude_failed_unit(struct tb_status_work *w, const struct tb_unit *u)
{
    bool again = strncmp(u->sub, "auto-restart", 12) == 0; /* 254 adds auto-restart-queued */
    const char *said = u->said[0] ? u->said : u->text;
    struct tb_status_problem *p;
    char end[96], logs[96];

    if (!tb_status_unit_failing(u) || tb_status_explains(w, u->name))
        return;
    unit_how_it_ended(u, end, sizeof(end));
    p = tb_status_add(w->c, TB_STATUS_CRITICAL, "%s %s: %s%s%s", u->name,
                      again ? "is restarted again and again" : "has failed", *end ? end : "no result known",
                      said[0] ? "; it said: " : "", said);
    tb_status_logs(u->name, logs);
    if (u->exit_code == TB_EXIT_CONFIG)
        tb_status_remedy(p,
                         "correct /etc/trustbridge/trustbridge.env as %s says, then systemctl restart "
                         "tb-configure.service",
                         logs);
    else
        tb_status_remedy(p, "systemctl status %s; %s", u->name, logs);
}

/* It runs at this moment, but not for long: it ends by itself, is started, ends again. */
static void conclude_restless_unit(struct tb_status_work *w, const struct tb_unit *u)
{
    const struct tb_snapshot *s = w->s;
    char d[32], logs[96];

    if (strncmp(u->sub, "auto-restart", 12) == 0 || tb_status_explains(w, u->name) ||
        !tb_status_restless(s, w->c, u))
        return;
    tb_status_remedy(
        tb_status_add(w->c, tb_status_work_level(w),
                      "%s has been restarted %" PRIu32 " times, the last time %s ago", u->name, u->restarts,
                      tb_span_format(s->realtime_us - MIN(s->realtime_us, u->since_realtime_us), d)),
        "%s", tb_status_logs(u->name, logs));
}

/* It does not run, did not fail by itself, and nobody is about to start it: somebody stopped it. A oneshot
 * that is stopped in its work counts as failed, by the signal. */
static bool unit_is_stopped(const struct tb_unit *u)
{
    if (!u)
        return true;
    return u->job[0] == '\0' && (strcmp(u->active, "inactive") == 0 || tb_unit_stopped_slowly(u) ||
                                 (strcmp(u->active, "failed") == 0 && u->killed_by == SIGTERM));
}

static bool target_is_up(const struct tb_snapshot *s)
{
    return s->units_known && tb_unit_runs(tb_status_unit(s, "trustbridge.target"));
}

/* What brings the model: up too, whenever the target is. A download that is stopped takes the runtime with
 * it. Where its file says that it works, that is told instead. */
void tb_status_add_stopped_model(struct tb_status_work *w)
{
    static const char *const names[] = {"tb-hydrate.service", "tb-runtime.service"};
    const struct tb_snapshot *s = w->s;
    const struct tb_unit *u;

    if (!target_is_up(s) || strcmp(w->c->state, "Suspended") == 0)
        return;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        u = tb_status_unit(s, names[i]);
        if (u && unit_is_stopped(u) && !tb_status_explains(w, names[i]) &&
            (i > 0 || !tb_status_writer_dead(s, &s->facts.hydrate, names[i]))) {
            tb_status_remedy(tb_status_add(w->c, tb_status_work_level(w), "%s is stopped%s", names[i],
                                           i == 0 ? ", and without it there is no model to serve" : ""),
                             "systemctl start %s", names[i]);
            tb_status_explain(w, names[0]);
            tb_status_explain(w, names[1]);
            return;
        }
        /* The runtime is started by the end of the download, and by nothing before. */
        if (!u || strcmp(u->active, "active") != 0)
            return;
    }
}

/* The programs that are up whenever the target is. */
static void conclude_missing_units(struct tb_status_work *w)
{
    static const char *const always[] = {"tb-authorize.service", "tb-proxy.service", "tb-billing.service"};

    if (strcmp(w->c->state, "Suspended") != 0 && !target_is_up(w->s)) {
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_CRITICAL, "trustbridge.target is not started"),
                         "systemctl start trustbridge.target");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(always); i++)
        if (unit_is_stopped(tb_status_unit(w->s, always[i])) && !tb_status_explains(w, always[i]))
            tb_status_remedy(tb_status_add(w->c, TB_STATUS_CRITICAL, "%s is stopped", always[i]),
                             "systemctl start %s", always[i]);
}

void tb_status_add_units(struct tb_status_work *w)
{
    const struct tb_snapshot *s = w->s;

    if (tb_status_place_full(s, TB_PLACE_STATE))
        tb_status_explain(w, "tb-billing.service");
    for (size_t i = 0; i < s->n_units; i++) {
        conclude_failed_unit(w, &s->units[i]);
        conclude_restless_unit(w, &s->units[i]);
    }
    if (s->units_known)
        conclude_missing_units(w);
}
