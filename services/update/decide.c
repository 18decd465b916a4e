/* SPDX-License-Identifier: Apache-2.0 */
#include "update/decide.h"

static const char promoted_back[] = "the provider has promoted the version before again";

static enum update_action decide_phase(struct update_memory *m, enum tb_update_phase phase,
                                       enum update_action action)
{
    m->phase = phase;
    return action;
}

/* The old runtime serves on, and has not been asked to stop: the choice waits for its next start. So it does
 * when the old model was being loaded, and came to serve after the choice, which proves nothing. */
static bool trial_waits(const struct update_facts *f, struct update_memory *m)
{
    bool old = f->loaded != 0 && f->loaded != f->choice.version;

    if (old && f->healthy == f->loaded)
        m->trial_until_us = 0;
    return old && m->trial_until_us == 0;
}

/* A version that has not served yet: does it, or when has it failed? */
static bool trial_ends_again_and_again(const struct update_facts *f, struct update_memory *m)
{
    if (!f->restarts_known)
        return false;
    if (!m->counting || f->restarts < m->restarts_before) /* started anew: systemd counts anew */
        m->restarts_before = m->counting ? 0 : f->restarts;
    m->counting = true;
    return f->restarts >= m->restarts_before + UPDATE_RESTARTS_MAX;
}

/* Nothing is proved while somebody keeps it stopped, and its next start takes what was chosen. */
static enum update_action decide_stopped(const struct update_facts *f, struct update_memory *m,
                                         const char **ret_why)
{
    m->trial_until_us = 0;
    *ret_why = promoted_back;
    return decide_phase(m, TB_UPDATE_READY, f->wanted == f->choice.previous ? UPDATE_BACK : UPDATE_WAIT);
}

static enum update_action decide_trial(const struct update_facts *f, struct update_memory *m,
                                       const char **ret_why)
{
    bool again;

    m->phase = TB_UPDATE_SWITCHING;
    if (f->now_boot_us < m->again_at_us)
        return UPDATE_WAIT;
    if (f->runtime_stopped)
        return decide_stopped(f, m, ret_why);
    if (m->trial_until_us == 0) {
        m->trial_until_us = f->now_boot_us + f->timeout_us;
        m->counting = false;
    }
    again = trial_ends_again_and_again(f, m);
    if (f->healthy == f->choice.version && f->loaded == f->choice.version) {
        m->trial_until_us = 0;
        return UPDATE_KEEP;
    }
    if (!f->lease_serving) { /* nothing may run: nothing is proved */
        m->trial_until_us = f->now_boot_us + f->timeout_us;
        return UPDATE_WAIT;
    }
    *ret_why = NULL;
    if (f->wanted == f->choice.previous)
        *ret_why = promoted_back;
    else if (f->runtime_failed)
        *ret_why = "the runtime does not start with it";
    else if (again)
        *ret_why = "the runtime ended again and again with it";
    else if (f->now_boot_us >= m->trial_until_us)
        *ret_why = "it did not serve within TB_SWITCH_TIMEOUT";
    if (!*ret_why)
        return UPDATE_WAIT;
    m->trial_until_us = 0;
    return UPDATE_BACK;
}

static enum update_action decide_ready(const struct update_facts *f, struct update_memory *m)
{
    bool now = f->asked || (f->policy.mode == TB_UPDATE_WINDOW && tb_update_window_open(&f->policy, f->now));

    if (!now && f->policy.mode == TB_UPDATE_RESTART)
        return decide_phase(m, TB_UPDATE_READY, UPDATE_TAKE);
    if (!now)
        return decide_phase(m, TB_UPDATE_READY, UPDATE_WAIT);
    if (f->loaded == 0) /* nobody is served whom it would disturb */
        return decide_phase(m, TB_UPDATE_SWITCHING, UPDATE_SWITCH);
    m->drain_until_us = f->now_boot_us + f->drain_us;
    return decide_phase(m, TB_UPDATE_DRAINING, UPDATE_DRAIN);
}

static enum update_action decide_other(const struct update_facts *f, struct update_memory *m)
{
    if (f->download_runs && f->download_of != f->wanted)
        return decide_phase(m, TB_UPDATE_DOWNLOADING, UPDATE_ABANDON);
    if (f->failed == f->wanted && !f->asked)
        return decide_phase(m, TB_UPDATE_FAILED, UPDATE_WAIT);
    if (f->complete == f->wanted && !f->download_runs)
        return decide_ready(f, m);
    if (f->download_runs || f->now_boot_us < m->download_at_us)
        return decide_phase(m, TB_UPDATE_DOWNLOADING, UPDATE_WAIT);
    return decide_phase(m, TB_UPDATE_DOWNLOADING, UPDATE_DOWNLOAD);
}

/* What it was drained for may be another version by now, or none. */
static enum update_action decide_drained(const struct update_facts *f, struct update_memory *m)
{
    if (f->complete != f->wanted || (f->wanted == f->choice.version && !f->choice.previous))
        return decide_phase(m, TB_UPDATE_NONE, UPDATE_WAIT);
    if (!f->drained && f->now_boot_us < m->drain_until_us)
        return UPDATE_WAIT;
    return decide_phase(m, TB_UPDATE_SWITCHING, UPDATE_SWITCH);
}

/* From before there were versions. Once for each that is wanted: when what serves is another, only
 * tb-hydrate's next start helps. */
static enum update_action decide_unnumbered(const struct update_facts *f, struct update_memory *m)
{
    bool look = f->lease_serving && f->wanted && f->delivered && !f->download_runs &&
                f->download_of != f->wanted && f->now_boot_us >= m->download_at_us;

    return decide_phase(m, TB_UPDATE_NONE, look ? UPDATE_ADOPT : UPDATE_WAIT);
}

enum update_action update_decide(const struct update_facts *f, struct update_memory *m, const char **ret_why)
{
    const struct tb_serving *c = &f->choice;

    if (!f->has_serving)
        return decide_unnumbered(f, m);
    if (c->previous && !trial_waits(f, m))
        return decide_trial(f, m, ret_why);
    if (!f->lease_serving || !f->wanted)
        return decide_phase(m, TB_UPDATE_NONE, UPDATE_WAIT);
    if (m->phase == TB_UPDATE_DRAINING)
        return decide_drained(f, m);
    if (f->wanted != c->version)
        return decide_other(f, m);
    if (f->download_runs && f->download_of != f->wanted)
        return decide_phase(m, TB_UPDATE_NONE, UPDATE_ABANDON);
    /* Chosen already, while the old one serves on: an operator, or a window, need not wait for that. */
    if (c->previous && (f->asked || f->policy.mode == TB_UPDATE_WINDOW))
        return f->complete == f->wanted ? decide_ready(f, m) : decide_phase(m, TB_UPDATE_READY, UPDATE_WAIT);
    return decide_phase(m, c->previous ? TB_UPDATE_READY : TB_UPDATE_NONE, UPDATE_WAIT);
}
