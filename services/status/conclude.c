/* SPDX-License-Identifier: Apache-2.0 */
/* From what is known to the state, what is wrong, and what to do about it. No I/O. */
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/exit.h"
#include "status/status.h"

#define SILENT_US (60 * TB_USEC_PER_SEC) /* progress files are written each second or so */
#define RESTLESS_US (120 * TB_USEC_PER_SEC)
#define LOGS "journalctl --namespace=trustbridge -u "

const struct tb_unit *tb_status_unit(const struct tb_snapshot *s, const char *name)
{
    for (size_t i = 0; i < s->n_units; i++)
        if (strcmp(s->units[i].name, name) == 0)
            return &s->units[i];
    return NULL;
}

bool tb_status_writer_dead(const struct tb_snapshot *s, const struct tb_step *step, const char *unit)
{
    return s->units_known && step->work == TB_WORK_RUNNING && !tb_unit_runs(tb_status_unit(s, unit));
}

/* --- the state ------------------------------------------------------------------------------------------ */

static const char *const exit_3_words[] = {"Boot", "Authorize", "Hydrate", "Decrypt", "Suspended", "Down"};

static void conclude_answer(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    snprintf(c->reason, sizeof(c->reason), "%s", s->proxy.reason);
    if (strcmp(s->proxy.state, "Ready") == 0) {
        c->state = "Ready";
        c->exit_code = TB_STATUS_READY;
        return;
    }
    c->state = "Unknown"; /* a word of a newer tb-proxy */
    c->exit_code = TB_STATUS_NOT_READY;
    for (size_t i = 0; i < ARRAY_SIZE(exit_3_words); i++)
        if (strcmp(s->proxy.state, exit_3_words[i]) == 0)
            c->state = exit_3_words[i];
}

/* tb-proxy does not answer, so nothing is served, whatever the files say. */
static void conclude_files(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    const struct tb_facts *f = &s->facts;
    struct tb_verdict v;

    tb_state_derive(f, s->boottime_us, &v);
    c->state = tb_state_name(v.state);
    c->exit_code = TB_STATUS_NOT_READY;
    snprintf(c->reason, sizeof(c->reason), "%s", v.reason);
    if (v.state == TB_STATE_READY || (v.state == TB_STATE_DECRYPT && f->delivery.work == TB_WORK_COMPLETE)) {
        c->state = "Down";
        snprintf(c->reason, sizeof(c->reason), "tb-proxy does not answer");
    } else if (v.state == TB_STATE_BOOT && s->n_units == 0 && f->hydrate.work == TB_WORK_ABSENT &&
               !f->broken) {
        c->state = "Unknown";
        c->exit_code = TB_STATUS_UNKNOWN;
        snprintf(c->reason, sizeof(c->reason), "nothing of TrustBridge is to be seen on this machine");
    }
}

/* --- problems ------------------------------------------------------------------------------------------- */

static struct tb_status_problem *conclude_problem(struct tb_conclusion *c, const char *fmt, ...)
    _printf_(2, 3);
static struct tb_status_problem *conclude_problem(struct tb_conclusion *c, const char *fmt, ...)
{
    struct tb_status_problem *p = &c->problems[MIN(c->n_problems, (size_t)TB_STATUS_PROBLEMS_MAX - 1)];
    va_list ap;

    c->n_problems = MIN(c->n_problems + 1, (size_t)TB_STATUS_PROBLEMS_MAX);
    va_start(ap, fmt);
    vsnprintf(p->what, sizeof(p->what), fmt, ap);
    va_end(ap);
    p->remedy[0] = '\0';
    return p;
}

static void conclude_remedy(struct tb_status_problem *p, const char *fmt, ...) _printf_(2, 3);
static void conclude_remedy(struct tb_status_problem *p, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(p->remedy, sizeof(p->remedy), fmt, ap);
    va_end(ap);
}

static void conclude_suspension(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    const struct tb_facts *f = &s->facts;
    const char *why = f->suspended_reason[0] ? f->suspended_reason : f->lease_reason;

    if (f->lease == TB_LEASE_DENIED)
        conclude_remedy(
            conclude_problem(c, "the control plane refuses this contract: %s",
                             *why ? why : "no reason given"),
            "check TB_CONTRACT_ID, TB_ASSET_ID and the client certificate, then ask the provider; nothing "
            "is to be restarted here, serving resumes by itself once allowed");
    else
        conclude_remedy(conclude_problem(c, "suspended: %s", *why ? why : "the lease is over"),
                        "look at the network to TB_EDC_ENDPOINT, then at " LOGS
                        "tb-authorize; serving resumes by itself once the control plane allows it");
}

static void conclude_lease(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    const struct tb_facts *f = &s->facts;

    if (strcmp(c->state, "Suspended") == 0)
        return conclude_suspension(s, c);
    if (f->lease == TB_LEASE_UNREACHABLE)
        conclude_remedy(conclude_problem(c, "the control plane does not answer: %s", f->lease_reason),
                        "check name, route and firewall towards TB_EDC_ENDPOINT, and TB_CA_FILE; %s",
                        strcmp(c->state, "Ready") == 0
                            ? "serving goes on until the grace ends, see lease above"
                            : "no model is loaded before it answers");
    if (f->lease == TB_LEASE_PENDING && f->lease_reason[0])
        conclude_remedy(
            conclude_problem(c, "no lease yet: %s", f->lease_reason),
            "check TB_EDC_ENDPOINT, TB_CA_FILE and the network towards it; tb-authorize keeps asking");
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

/* A unit that failed, or that is started over and over. */
static void conclude_failed_unit(const struct tb_unit *u, struct tb_conclusion *c)
{
    bool again = strncmp(u->sub, "auto-restart", 12) == 0; /* 254 adds auto-restart-queued */
    struct tb_status_problem *p;
    char end[96];

    if (strcmp(u->active, "failed") != 0 && !again)
        return;
    unit_how_it_ended(u, end, sizeof(end));
    p = conclude_problem(c, "%s %s: %s%s%s", u->name, again ? "is restarted again and again" : "has failed",
                         *end ? end : "no result known", u->text[0] ? "; it said: " : "", u->text);
    if (u->exit_code == TB_EXIT_CONFIG)
        conclude_remedy(p,
                        "correct /etc/trustbridge/trustbridge.env as " LOGS
                        "%s says, then systemctl restart tb-configure.service",
                        u->name);
    else
        conclude_remedy(p, "systemctl status %s; " LOGS "%s", u->name, u->name);
}

/* It runs at this moment, but not for long: it ends by itself, is started, ends again. */
static void conclude_restless_unit(const struct tb_snapshot *s, const struct tb_unit *u,
                                   struct tb_conclusion *c)
{
    char d[32];

    if (u->restarts < 2 || strncmp(u->sub, "auto-restart", 12) == 0 ||
        s->realtime_us > u->since_realtime_us + RESTLESS_US)
        return;
    conclude_remedy(
        conclude_problem(c, "%s has been restarted %" PRIu32 " times, the last time %s ago", u->name,
                         u->restarts,
                         tb_span_format(s->realtime_us - MIN(s->realtime_us, u->since_realtime_us), d)),
        LOGS "%s", u->name);
}

/* The programs that are up whenever the target is. */
static void conclude_missing_units(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    static const char *const always[] = {"tb-authorize.service", "tb-proxy.service", "tb-billing.service"};
    const struct tb_unit *target = tb_status_unit(s, "trustbridge.target");

    if (strcmp(c->state, "Suspended") != 0 && !tb_unit_runs(target)) {
        conclude_remedy(conclude_problem(c, "trustbridge.target is not started"),
                        "systemctl start trustbridge.target");
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(always); i++) {
        const struct tb_unit *u = tb_status_unit(s, always[i]);

        if (!u || strcmp(u->active, "inactive") == 0)
            conclude_remedy(conclude_problem(c, "%s is stopped", always[i]), "systemctl start %s", always[i]);
    }
}

struct step_of {
    const struct tb_step *step;
    const char *unit, *file;
    bool counted; /* its file is written all the time, not at its changes only */
};

static void conclude_step(const struct tb_snapshot *s, const struct step_of *o, struct tb_conclusion *c)
{
    const struct tb_step *step = o->step;
    uint64_t age =
        s->realtime_us > step->written_realtime_us ? s->realtime_us - step->written_realtime_us : 0;
    char d[32];

    if (step->work == TB_WORK_FAILED)
        conclude_remedy(conclude_problem(c, "%s: %s", o->unit, step->reason[0] ? step->reason : "failed"),
                        LOGS "%s", o->unit);
    else if (tb_status_writer_dead(s, step, o->unit))
        conclude_problem(c, "%s says \"%s\", but %s does not run: the file is what it left behind", o->file,
                         step->phase, o->unit);
    else if (step->work == TB_WORK_RUNNING && o->counted && age > SILENT_US)
        conclude_remedy(
            conclude_problem(c, "%s says \"%s\", but was last written %s ago: its writer is dead or stuck",
                             o->file, step->phase, tb_span_format(age, d)),
            LOGS "%s", o->unit);
}

static void conclude_runtime(struct tb_conclusion *c)
{
    if (strcmp(c->reason, "runtime_not_answering") == 0)
        conclude_remedy(conclude_problem(
                            c, "the runtime has the model, but does not answer 200 to TB_RUNTIME_HEALTH yet"),
                        "a large model takes its time; else compare the address in TB_RUNTIME_EXEC with "
                        "TB_RUNTIME_URL, and look at " LOGS "tb-runtime.service");
}

static void conclude_steps(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    const struct step_of all[] = {
        {&s->facts.hydrate, "tb-hydrate.service", "tb-hydrate/progress.json", true},
        {&s->facts.decrypt, "tb-decrypt.service", "tb-decrypt/progress.json", true},
        {&s->facts.delivery, "tb-runtime.service", "tb-runtime/delivery.json", false},
    };

    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        conclude_step(s, &all[i], c);
}

/* An appliance that was booted without its settings: everything waits for them. */
static bool conclude_no_contract(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    if (!s->units_known || s->configured || tb_unit_runs(tb_status_unit(s, "trustbridge.target")))
        return false;
    snprintf(c->reason, sizeof(c->reason), "not configured");
    conclude_remedy(
        conclude_problem(c, "no contract is configured, so nothing is started"),
        "set TB_CONTRACT_ID, TB_ASSET_ID and TB_EDC_ENDPOINT in /etc/trustbridge/trustbridge.env, "
        "then systemctl restart tb-configure.service and systemctl start trustbridge.target");
    return true;
}

void tb_status_conclude(const struct tb_snapshot *s, struct tb_conclusion *ret)
{
    *ret = (struct tb_conclusion){.state = "Unknown"};
    if (s->proxy.came)
        conclude_answer(s, ret);
    else
        conclude_files(s, ret);
    if (ret->exit_code == TB_STATUS_UNKNOWN || conclude_no_contract(s, ret))
        return;
    if (!s->proxy.came)
        conclude_remedy(conclude_problem(ret, "tb-proxy does not answer: %s", s->proxy.error),
                        "systemctl status tb-proxy.service tb-proxy.socket tb-proxy-health.socket; " LOGS
                        "tb-proxy.service");
    conclude_lease(s, ret);
    conclude_steps(s, ret);
    conclude_runtime(ret);
    for (size_t i = 0; i < s->n_units; i++) {
        conclude_failed_unit(&s->units[i], ret);
        conclude_restless_unit(s, &s->units[i], ret);
    }
    if (s->units_known)
        conclude_missing_units(s, ret);
    if (s->facts.broken)
        conclude_problem(ret, "%s cannot be read: %s", s->facts.broken, strerror(-s->facts.broken_error));
}
