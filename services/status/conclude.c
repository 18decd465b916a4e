/* SPDX-License-Identifier: Apache-2.0 */
/* From what is known to the state, what is wrong, and what to do about it. No I/O. */
#include <inttypes.h>
#include <string.h>

#include "common/exit.h"
#include "common/facts.h"
#include "common/attestation.h"
#include "status/conclude.h"

#define SILENT_US (60 * TB_USEC_PER_SEC) /* progress files are written each second or so */
#define LOGS "journalctl --namespace=trustbridge -u "

uint64_t tb_status_step_age(const struct tb_snapshot *s, const struct tb_step *step)
{
    if (step->written_boottime_us > 0 && step->written_boottime_us <= s->boottime_us)
        return s->boottime_us - step->written_boottime_us;
    return s->realtime_us > step->written_realtime_us ? s->realtime_us - step->written_realtime_us : 0;
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

/* tb-proxy does not answer those who watch: what a client met at the public port counts, not what files
 * say. */
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
        if (s->client.serves) { /* only those who watch cannot get in */
            c->state = "Ready";
            c->exit_code = TB_STATUS_READY;
            snprintf(c->reason, sizeof(c->reason), "the health port does not answer");
        }
    } else if (v.state == TB_STATE_BOOT && s->n_units == 0 && f->hydrate.work == TB_WORK_ABSENT &&
               !f->broken) {
        c->state = "Unknown";
        c->exit_code = TB_STATUS_UNKNOWN;
        snprintf(c->reason, sizeof(c->reason), "nothing of TrustBridge is to be seen on this machine");
    }
}

/* --- what is wrong -------------------------------------------------------------------------------------- */

static void conclude_suspension(struct tb_status_work *w)
{
    const struct tb_facts *f = &w->s->facts;
    const char *why = f->suspended_reason[0] ? f->suspended_reason : f->lease_reason;
    struct tb_status_problem *p;

    tb_status_explain(w, "tb-hydrate.service");
    tb_status_explain(w, "tb-decrypt.service");
    tb_status_explain(w, "tb-runtime.service");
    if (tb_attestation_remedy(why)) {
        p = tb_status_add(w->c, TB_STATUS_CRITICAL, "the control plane refuses what this machine shows: %s",
                          why);
        return tb_status_remedy(p, "%s; serving resumes by itself once allowed", tb_attestation_remedy(why));
    }
    if (f->lease == TB_LEASE_DENIED) {
        p = tb_status_add(w->c, TB_STATUS_CRITICAL, "the control plane refuses this contract: %s",
                          *why ? why : "no reason given");
        if (strncmp(why, "enrolment_", 10) == 0 || strcmp(why, "machine_unknown") == 0)
            tb_status_remedy(p, "ask the provider for an enrolment code, write it to "
                                "/etc/credstore/trustbridge.enrolment-code (mode 0600), then "
                                "systemctl restart tb-authorize.service");
        else
            tb_status_remedy(
                p, "check TB_CONTRACT_ID, TB_ASSET_ID and the client certificate, then ask the provider; "
                   "nothing is to be restarted here, serving resumes by itself once allowed");
        return;
    }
    p = tb_status_add(w->c, TB_STATUS_CRITICAL, "suspended: %s", *why ? why : "the lease is over");
    tb_status_remedy(p, "look at the network to TB_EDC_ENDPOINT, then at " LOGS
                        "tb-authorize; serving resumes by itself once the control plane allows it");
}

/* The remedy that fits what stands in the way of the control plane. */
static void conclude_contact_remedy(struct tb_status_problem *p, const char *why, const char *then)
{
    if (tb_attestation_remedy(why))
        tb_status_remedy(p, "%s; %s", tb_attestation_remedy(why), then);
    else if (strstr(why, "not yet valid") || strstr(why, "compare the clocks"))
        tb_status_remedy(p,
                         "compare this machine's clock with a right one: date -u; timedatectl set-ntp true "
                         "sets it by the network, date -u -s by hand; %s",
                         then);
    else if (strstr(why, "has expired"))
        tb_status_remedy(p,
                         "compare this machine's clock with a right one: date -u; if it is right, the "
                         "certificate of the control plane has expired: ask the provider; %s",
                         then);
    else if (strstr(why, "TB_CLIENT_") || strstr(why, "credential client-"))
        tb_status_remedy(
            p,
            "replace that file by the one from the provider; systemctl restart tb-authorize.service "
            "reads it again; %s",
            then);
    else
        tb_status_remedy(p, "check name, route and firewall towards TB_EDC_ENDPOINT, and TB_CA_FILE; %s",
                         then);
}

static void conclude_lease(struct tb_status_work *w)
{
    const struct tb_facts *f = &w->s->facts;
    bool ready = strcmp(w->c->state, "Ready") == 0 || tb_status_requests_wait(w->s, w->c);
    const char *why = f->lease_reason;
    struct tb_status_problem *p;

    if (strcmp(w->c->state, "Suspended") == 0 || w->clock_wrong || f->contact.client.error[0] ||
        f->contact.ca.error[0])
        return; /* that explains it */
    if (f->lease == TB_LEASE_PENDING && f->lease_reason[0]) {
        p = tb_status_add(w->c, TB_STATUS_CRITICAL, "no lease yet: %s", f->lease_reason);
        return conclude_contact_remedy(p, why, "tb-authorize keeps asking");
    }
    if (f->lease != TB_LEASE_UNREACHABLE && !(f->contact.known && !f->contact.reachable))
        return;
    if (f->lease != TB_LEASE_UNREACHABLE)
        why = f->contact.reason;
    p = tb_status_add(w->c, tb_status_work_level(w), "%s: %s",
                      tb_attestation_remedy(why) ? "the lease cannot be renewed"
                                                 : "the control plane does not answer",
                      why);
    conclude_contact_remedy(p, why,
                            ready ? "serving goes on until the grace ends, see lease above"
                                  : "no model is loaded before it answers");
}

struct step_of {
    const struct tb_step *step;
    const char *unit, *file;
    bool counted; /* its file is written all the time, not at its changes only */
};

/* "WHAT IS WRONG; then: COMMANDS (WHY)", as tb-hydrate says it: the commands are the remedy. */
static bool conclude_step_cure(struct tb_status_problem *p)
{
    char *cure = strstr(p->what, "; then: "), *end;

    if (!cure)
        return false;
    end = strstr(cure, " (");
    tb_status_remedy(p, "%.*s", end ? (int)(end - cure) - 8 : -1, cure + 8);
    *cure = '\0';
    return true;
}

static void conclude_step_remedy(const struct tb_snapshot *s, const char *unit, struct tb_status_problem *p)
{
    const struct tb_unit *u = tb_status_unit(s, unit);
    char logs[96];

    if (conclude_step_cure(p))
        return;
    tb_status_logs(unit, logs);
    if (strstr(p->what, "the reader closed the FIFO") || strstr(p->what, "two readers opened"))
        tb_status_remedy(
            p,
            "if the inference server cannot load from a FIFO, as most cannot, set TB_DELIVERY=auto in "
            "/etc/trustbridge/trustbridge.env, then systemctl restart tb-configure.service; else %s",
            logs);
    else if (u && u->exit_code == TB_EXIT_CONFIG)
        tb_status_remedy(p,
                         "correct /etc/trustbridge/trustbridge.env as %s says, then systemctl restart "
                         "tb-configure.service",
                         logs);
    else
        tb_status_remedy(p, "%s", logs);
}

static void conclude_step(struct tb_status_work *w, const struct step_of *o)
{
    const struct tb_snapshot *s = w->s;
    const struct tb_step *step = o->step;
    uint64_t age = tb_status_step_age(s, step);
    char d[32], logs[96];

    tb_status_logs(o->unit, logs);
    if (tb_status_explains(w, o->unit))
        return;
    if (step->work == TB_WORK_FAILED)
        conclude_step_remedy(s, o->unit,
                             tb_status_add(w->c, TB_STATUS_CRITICAL, "%s: %s", o->unit,
                                           step->reason[0] ? step->reason : "failed"));
    else if (tb_status_writer_dead(s, step, o->unit))
        tb_status_remedy(tb_status_add(w->c, tb_status_work_level(w),
                                       "%s says \"%s\", but %s does not run: the file is what it left behind",
                                       o->file, step->phase, o->unit),
                         "systemctl restart %s; %s", o->unit, logs);
    else if (step->work == TB_WORK_RUNNING && o->counted &&
             (step->written_boottime_us > 0 || !w->clock_wrong) && age > SILENT_US)
        tb_status_remedy(
            tb_status_add(w->c, tb_status_work_level(w),
                          "%s says \"%s\", but was last written %s ago: its writer is dead or stuck", o->file,
                          step->phase, tb_span_format(age, d)),
            "%s", logs);
    else
        return;
    /* The unit that failed with it, and the steps behind it, are consequences. */
    tb_status_explain(w, o->unit);
    tb_status_explain(w, "tb-runtime.service");
}

static void conclude_runtime(struct tb_status_work *w)
{
    const struct tb_unit *u = tb_status_unit(w->s, "tb-runtime.service");

    if (strcmp(w->c->reason, "runtime_not_answering") != 0 || tb_status_unit_failing(u))
        return;
    tb_status_remedy(
        tb_status_add(w->c, TB_STATUS_CRITICAL,
                      "the runtime has the model, but does not answer 200 to TB_RUNTIME_HEALTH yet"),
        "a large model takes its time; else compare the address in TB_RUNTIME_EXEC with "
        "TB_RUNTIME_URL, and look at " LOGS "tb-runtime.service");
}

static void conclude_steps(struct tb_status_work *w)
{
    const struct tb_facts *f = &w->s->facts;
    const struct step_of all[] = {
        {&f->hydrate, "tb-hydrate.service", "tb-hydrate/progress.json", true},
        {&f->decrypt, "tb-decrypt.service", "tb-decrypt/progress.json", true},
        {&f->delivery, "tb-runtime.service", "tb-runtime/delivery.json", false},
    };

    if (tb_status_place_full(w->s, TB_PLACE_CIPHERTEXT) && f->hydrate.work == TB_WORK_FAILED) {
        tb_status_explain(w, "tb-hydrate.service");
        tb_status_explain(w, "tb-runtime.service");
    }
    tb_status_add_stopped_model(w);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        conclude_step(w, &all[i]);
}

/* --- the door ------------------------------------------------------------------------------------------- */

static bool socket_is_down(const struct tb_snapshot *s, const char *name)
{
    const struct tb_unit *u = tb_status_unit(s, name);

    return s->units_known && u && !tb_unit_runs(u);
}

/* A socket that systemd does not hold: nobody can come in, whatever tb-proxy thinks. */
static bool conclude_socket(struct tb_status_work *w, const char *name)
{
    const struct tb_unit *u = tb_status_unit(w->s, name);

    if (!socket_is_down(w->s, name))
        return false;
    tb_status_remedy(
        tb_status_add(w->c, TB_STATUS_CRITICAL, "%s %s: nobody listens%s%s", name,
                      tb_status_unit_failing(u) ? "has failed" : "is stopped",
                      u && u->listen[0] ? " on " : "", u ? u->listen : ""),
        "systemctl stop tb-proxy.service; systemctl start %s tb-proxy.service; if that fails, ss -ltnp "
        "shows who has the port",
        name);
    tb_status_explain(w, name);
    tb_status_explain(w, "tb-proxy.service");
    return true;
}

static void conclude_door(struct tb_status_work *w)
{
    const struct tb_snapshot *s = w->s;
    const struct tb_unit *proxy = tb_status_unit(s, "tb-proxy.service");
    bool down = conclude_socket(w, "tb-proxy.socket");

    down = conclude_socket(w, "tb-proxy-health.socket") || down;
    /* A unit that fails says more than that it does not answer; one that is stopped is told below. */
    if (down || tb_status_unit_failing(proxy) ||
        (s->units_known && proxy && strcmp(proxy->active, "inactive") == 0 && s->proxy.error[0]))
        return;
    if (!s->proxy.came && s->client.serves)
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_CRITICAL,
                                       "requests are served, but the health port does not answer: %s",
                                       s->proxy.error),
                         "systemctl status tb-proxy-health.socket; systemctl restart tb-proxy.service");
    else if (!s->proxy.came)
        tb_status_remedy(
            tb_status_add(w->c, TB_STATUS_CRITICAL, "tb-proxy does not answer: %s", s->proxy.error),
            "systemctl status tb-proxy.service tb-proxy.socket tb-proxy-health.socket; " LOGS
            "tb-proxy.service");
    else if (s->client.addr[0] && !s->client.answered)
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_CRITICAL, "clients cannot connect to %s: %s",
                                       s->client.addr, s->client.error),
                         "systemctl stop tb-proxy.service; systemctl start tb-proxy.socket tb-proxy.service; "
                         "if that fails, "
                         "ss -ltnp shows who has the port, and TB_PUBLIC_ADDR names it");
}

/* The audit, where no full disk explains it. */
static void conclude_audit(struct tb_status_work *w)
{
    if (strcmp(w->c->state, "Down") != 0 || strncmp(w->c->reason, "audit_unavailable", 17) != 0 ||
        w->audit_explained)
        return;
    tb_status_remedy(
        tb_status_add(w->c, TB_STATUS_CRITICAL, "no request is served: %s", w->c->reason),
        "make that place writable for user tb-proxy again, with free space; it is tried again by itself; "
        "df -h /var/log; " LOGS "tb-proxy.service");
}

/* An appliance that was booted without its settings: everything waits for them. */
static bool conclude_no_contract(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    if (!s->units_known || s->configured || tb_unit_runs(tb_status_unit(s, "trustbridge.target")))
        return false;
    snprintf(c->reason, sizeof(c->reason), "not configured");
    tb_status_remedy(
        tb_status_add(c, TB_STATUS_CRITICAL, "no contract is configured, so nothing is started"),
        "set TB_CONTRACT_ID, TB_ASSET_ID and TB_EDC_ENDPOINT in /etc/trustbridge/trustbridge.env, "
        "then systemctl restart tb-configure.service and systemctl start trustbridge.target");
    return true;
}

/* What keeps requests from being served comes first; what was concluded earlier explains more. */
static void conclude_order(struct tb_conclusion *c)
{
    for (size_t i = 1; i < c->n_problems; i++)
        for (size_t k = i; k > 0 && c->problems[k].level > c->problems[k - 1].level; k--) {
            struct tb_status_problem p = c->problems[k];

            c->problems[k] = c->problems[k - 1];
            c->problems[k - 1] = p;
        }
}

/* tb-proxy is well, but nobody reaches it. */
static void conclude_unreached(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    if (strcmp(c->state, "Ready") != 0 || !s->client.addr[0] || s->client.answered)
        return;
    c->state = "Down";
    c->exit_code = TB_STATUS_NOT_READY;
    snprintf(c->reason, sizeof(c->reason), "clients cannot connect to %.90s: %.130s", s->client.addr,
             s->client.error);
}

/* A file by which a program tells its state: it writes that anew when it starts. */
static void conclude_broken(const struct tb_snapshot *s, struct tb_conclusion *c)
{
    size_t n = strcspn(s->facts.broken, "/");
    bool own = strncmp(s->facts.broken, "tb-authorize/", 13) == 0 ||
               strncmp(s->facts.broken, "tb-hydrate/", 11) == 0;

    tb_status_remedy(tb_status_add(c, TB_STATUS_CRITICAL, "%s cannot be read: %s", s->facts.broken,
                                   strerror(-s->facts.broken_error)),
                     "systemctl restart %.*s.service, which writes it again", own ? (int)n : 10,
                     own ? s->facts.broken : "tb-runtime");
}

/* Files that are gone while their writers run. */
static void conclude_lost(struct tb_status_work *w)
{
    const struct tb_snapshot *s = w->s;
    const char *lost = s->units_known ? tb_facts_lost(&s->facts, s->units, s->n_units, s->realtime_us) : NULL;

    if (lost) {
        int n = (int)strcspn(lost, "/");

        tb_status_remedy(tb_status_add(w->c, tb_status_work_level(w),
                                       "%s was removed while %.*s.service runs", lost, n, lost),
                         "systemctl restart %.*s.service, which writes it again", n, lost);
    }
    if (s->proxy.state_trouble[0])
        tb_status_remedy(tb_status_add(w->c, TB_STATUS_CRITICAL, "%s", s->proxy.state_trouble),
                         "make that place writable for user tb-proxy, with free space; it is tried again by "
                         "itself, and what tb-proxy has counted is lost if it ends before");
}

void tb_status_conclude(const struct tb_snapshot *s, struct tb_conclusion *ret)
{
    struct tb_status_work w = {.s = s, .c = ret};

    *ret = (struct tb_conclusion){.state = "Unknown"};
    if (s->proxy.came)
        conclude_answer(s, ret);
    else
        conclude_files(s, ret);
    if (ret->exit_code == TB_STATUS_UNKNOWN || conclude_no_contract(s, ret))
        return;
    conclude_unreached(s, ret);
    if (strcmp(ret->state, "Suspended") == 0)
        conclude_suspension(&w);
    tb_status_add_update(&w);
    w.audit_explained = tb_status_add_full_disks(s, ret);
    conclude_door(&w);
    conclude_audit(&w);
    w.clock_wrong = tb_status_add_clock(s, ret);
    if (w.clock_wrong && s->facts.lease == TB_LEASE_PENDING)
        ret->problems[ret->n_problems - 1].level = TB_STATUS_CRITICAL;
    tb_status_add_certificates(s, ret);
    tb_status_add_keys(s, ret);
    tb_status_add_settings(&w);
    conclude_lost(&w);
    conclude_lease(&w);
    if (!tb_status_is_switching(s)) {
        conclude_steps(&w);
        conclude_runtime(&w);
    }
    tb_status_add_units(&w);
    if (s->facts.broken)
        conclude_broken(s, ret);
    tb_status_add_silence(s, ret);
    tb_status_add_low_disks(s, ret);
    tb_status_add_ledger(s, ret);
    conclude_order(ret);
}
