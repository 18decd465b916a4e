/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/backoff.h"
#include "common/domain_file.h"
#include "common/events.h"
#include "common/exit.h"
#include "common/io.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/signals.h"
#include "common/units.h"
#include "update/update.h"

#define NEXT_UNIT "tb-next.service"
#define RUNTIME_UNIT "tb-runtime.service"
#define LOOK_BUSY_MS 200         /* while a switch goes on */
#define LOOK_IDLE_MS (60 * 1000) /* files say when they change; a clock that is set does not */
#define GATHER_MS 20             /* changes that come together */
#define DOWNLOAD_AGAIN_MS 5000   /* 5, 10, ... seconds */
#define DOWNLOAD_CAP_MS (300 * 1000)
#define ENDING_LOOK_MS 50
#define ENDING_MS_MAX (60 * 1000)
#define SYSTEMD_EVERY_US TB_USEC_PER_SEC
#define STOPPED_WHY "tb-runtime.service was stopped by hand, and its next start takes this version"
#define WISH_AGAIN_US (60 * TB_USEC_PER_SEC) /* a disk that is full or read-only stays so for a while */

struct update_daemon {
    const struct tb_config *cfg;
    char *run_dir, *state_dir; /* its own ones */
    int signal_fd, inotify_fd;
    struct update_facts facts;
    struct update_memory memory;
    struct update_failure failure;
    struct tb_backoff backoff;
    pid_t download; /* systemctl start tb-next.service; 0: none */
    uint64_t asked_systemd_us;
    uint64_t hold_until_us;
    uint64_t gone;                    /* said to be complete, and could not be taken: brought again once */
    bool gone_is_here;                /* since then */
    char back_why[2 * TB_REASON_MAX]; /* of a way back that could not be written */
    struct tb_update written;
    bool order_kept; /* STATE/ordered.json is there */
    bool trial_marked, quit;
};

/* --- telling -------------------------------------------------------------------------------------------- */

static void updater_log(int level, const char *event, uint64_t version, const char *text, const char *why)
{
    char v[48], reason[TB_REASON_MAX + 16];
    const char *const fields[] = {v, reason, NULL};

    snprintf(v, sizeof(v), "TB_ASSET_VERSION=%llu", (unsigned long long)version);
    snprintf(reason, sizeof(reason), "TB_REASON=%s", why);
    tb_log_full(level, event, fields, "version %llu %s%s%s", (unsigned long long)version, text,
                *why ? ": " : "", why);
}

static const char *updater_when(const struct update_facts *f)
{
    static const char *const names[] = {
        [TB_UPDATE_MANUAL] = "manual", [TB_UPDATE_RESTART] = "restart", [TB_UPDATE_WINDOW] = "window"};

    return names[f->policy.mode];
}

/* After a switch that came to nothing the version before is loaded again; those who wait go on doing so.
 * While requests are waited for it serves, though what was loaded before there were versions is well
 * without a number. */
static bool updater_is_on_way_back(const struct update_daemon *d)
{
    const struct update_facts *f = &d->facts;

    return f->now_boot_us < d->hold_until_us && f->lease_serving && f->has_serving && !f->choice.previous &&
           f->healthy != f->choice.version;
}

static void updater_describe(const struct update_daemon *d, struct tb_update *u)
{
    const struct update_facts *f = &d->facts;
    enum tb_update_phase phase = d->memory.phase;
    bool back = phase != TB_UPDATE_FAILED && phase != TB_UPDATE_DRAINING && updater_is_on_way_back(d),
         pending;

    if (back)
        phase = TB_UPDATE_SWITCHING;
    pending = phase != TB_UPDATE_NONE;
    memset(u, 0, sizeof(*u)); /* it is compared as bytes */
    u->phase = phase;
    u->serving = f->loaded ? f->loaded : f->choice.previous ? f->choice.previous : f->choice.version;
    snprintf(u->when, sizeof(u->when), "%s", updater_when(f));
    if (pending)
        u->next =
            back || (phase == TB_UPDATE_SWITCHING && f->choice.previous) ? f->choice.version : f->wanted;
    if (phase == TB_UPDATE_READY && f->choice.previous && f->runtime_stopped)
        snprintf(u->reason, sizeof(u->reason), "%s", STOPPED_WHY);
    else if (phase == TB_UPDATE_READY && f->policy.mode == TB_UPDATE_WINDOW)
        u->switch_at_real_us = (uint64_t)tb_update_window_next(&f->policy, f->now) * TB_USEC_PER_SEC;
    if (phase == TB_UPDATE_FAILED)
        snprintf(u->reason, sizeof(u->reason), "%s", d->failure.reason);
    if (phase == TB_UPDATE_DOWNLOADING && d->download == 0)
        update_explain_download(d->cfg->run_dir, u->reason);
    if (phase == TB_UPDATE_DRAINING || phase == TB_UPDATE_SWITCHING || phase == TB_UPDATE_FAILED)
        u->hold_until_boot_us = d->hold_until_us;
}

static void updater_tell(struct update_daemon *d)
{
    struct tb_update u;
    int r;

    updater_describe(d, &u);
    if (memcmp(&u, &d->written, sizeof(u)) == 0)
        return;
    r = tb_update_write(d->run_dir, &u);
    if (r < 0) {
        tb_warn("cannot write %s/" TB_UPDATE_NAME ": %s", d->run_dir, strerror(-r));
        return;
    }
    if (u.phase != d->written.phase || u.next != d->written.next)
        tb_info("serving version %llu; next %llu: %s%s%s", (unsigned long long)u.serving,
                (unsigned long long)u.next, tb_update_phase_name(u.phase), *u.reason ? ": " : "", u.reason);
    tb_notify_status("Serving version %llu%s%s", (unsigned long long)u.serving,
                     u.phase == TB_UPDATE_NONE ? "" : "; the next one: ",
                     u.phase == TB_UPDATE_NONE ? "" : tb_update_phase_name(u.phase));
    d->written = u;
}

/* Where tb-repair sees that what fails is on trial, and leaves it to us. */
static void updater_mark_trial(struct update_daemon *d, bool on)
{
    _cleanup_free_ char *path = tb_path_join(d->run_dir, "trial");

    d->trial_marked = on;
    if (path && on)
        (void)tb_write_file_atomic(path, "", 0, 0644);
    else if (path)
        (void)unlink(path);
}

/* --- doing ---------------------------------------------------------------------------------------------- */

/* What an operator ordered outlives us, and a reboot. */
static void updater_keep_order(struct update_daemon *d)
{
    int r;

    if (d->facts.asked == d->order_kept)
        return;
    r = update_order_write(d->state_dir, d->cfg->asset_id, d->facts.asked);
    if (r < 0)
        tb_warn("cannot write %s/ordered.json: %s; a restart will %s", d->state_dir, strerror(-r),
                d->facts.asked ? "forget that the switch was ordered" : "order the switch again");
    d->order_kept = d->facts.asked;
}

static void updater_fail(struct update_daemon *d, uint64_t version, const char *why)
{
    int r;

    d->failure.version = version;
    snprintf(d->failure.reason, sizeof(d->failure.reason), "%s", why);
    d->facts.asked = false;
    updater_keep_order(d);
    r = update_failure_write(d->state_dir, d->cfg->asset_id, &d->failure);
    if (r < 0)
        tb_warn("cannot write %s/failed.json: %s; a restart will try version %llu again", d->state_dir,
                strerror(-r), (unsigned long long)version);
}

static void updater_forgive(struct update_daemon *d)
{
    d->failure = (struct update_failure){0};
    (void)update_failure_write(d->state_dir, d->cfg->asset_id, &d->failure);
    d->backoff.attempt = 0;
    d->memory.download_at_us = 0;
    d->gone = 0;
}

/* Until the old one has gone, which TimeoutStopSec= bounds: what it says of itself proves nothing any more.
 * The new one is not waited for, as a model takes its time. */
static void updater_await_end(struct update_daemon *d)
{
    bool ending = true;

    for (int i = 0; i < ENDING_MS_MAX / ENDING_LOOK_MS; i++) {
        update_look_at_units(&d->facts, &ending);
        if (!ending)
            return;
        tb_sleep_ms(ENDING_LOOK_MS);
    }
}

/* With the version that was chosen, in one job of systemd's: an operator's stop, whenever it comes, is later
 * than that and takes its place, and one that was stopped by hand stays stopped. */
static void updater_restart_runtime(struct update_daemon *d)
{
    bool ending;

    update_look_at_units(&d->facts, &ending);
    if (d->facts.runtime_stopped)
        return;
    if (!d->facts.runtime_failed && update_systemctl("try-restart", RUNTIME_UNIT) == 0)
        updater_await_end(d);
    /* For good: there is nothing to stop. Also where it failed just before that job, which then was none. */
    if (!d->facts.runtime_failed)
        return;
    (void)update_systemctl("reset-failed", RUNTIME_UNIT);
    (void)update_systemctl("start", RUNTIME_UNIT);
}

/* False: it could not be chosen. */
static bool updater_take(struct update_daemon *d)
{
    uint64_t version = d->facts.wanted;

    if (version == d->facts.choice.version)
        return true;
    updater_mark_trial(d, true);
    if (update_wish(d->cfg->run_dir, "take", version) == 0)
        return true;
    updater_mark_trial(d, d->facts.choice.previous != 0);
    if (d->gone == version) {
        updater_fail(d, version, "tb-switch.service could not choose it; see its log");
        return false;
    }
    d->gone = version;
    d->gone_is_here = false;
    tb_warn("version %llu was complete and could not be chosen: it is looked at, and fetched where it lacks",
            (unsigned long long)version);
    return false;
}

/* Two models do not fit: the old runtime goes before the new one comes. */
static void updater_switch(struct update_daemon *d)
{
    bool ending;

    update_look_at_units(&d->facts, &ending);
    if (d->facts.runtime_stopped) {
        updater_log(TB_LOG_INFO, TB_EVENT_UPDATE, d->facts.wanted, "is chosen", STOPPED_WHY);
        d->memory.phase = TB_UPDATE_READY;
        d->hold_until_us = 0;
        (void)updater_take(d);
        return;
    }
    updater_log(TB_LOG_INFO, TB_EVENT_UPDATE, d->facts.wanted, "is switched to", "");
    updater_tell(d);
    if (updater_take(d))
        updater_restart_runtime(d);
    else /* and the old one serves on */
        d->hold_until_us = 0;
    d->facts.asked &= d->gone == d->facts.wanted && !d->gone_is_here;
}

static void updater_keep(struct update_daemon *d)
{
    if (update_wish(d->cfg->run_dir, "keep", d->facts.wanted) != 0) {
        d->memory.again_at_us = d->facts.now_boot_us + WISH_AGAIN_US;
        return;
    }
    updater_mark_trial(d, false);
    d->hold_until_us = 0;
    d->facts.asked = false;
    updater_forgive(d);
    updater_log(TB_LOG_INFO, TB_EVENT_UPDATE, d->facts.choice.version, "serves", "");
}

static void updater_back(struct update_daemon *d, const char *why)
{
    uint64_t version = d->facts.choice.version;
    char cause[TB_REASON_MAX], text[2 * TB_REASON_MAX];

    update_explain_runtime(d->cfg->run_dir, cause);
    snprintf(text, sizeof(text), "%s%s%s", why, *cause ? ": " : "", cause);
    if (*d->back_why)
        snprintf(text, sizeof(text), "%s", d->back_why);
    if (d->facts.wanted == version) /* first: one that is killed in between does not try it again */
        updater_fail(d, version, text);
    if (update_wish(d->cfg->run_dir, "back", 0) != 0) {
        snprintf(d->back_why, sizeof(d->back_why), "%s", text);
        d->memory.trial_until_us = d->memory.again_at_us = d->facts.now_boot_us + WISH_AGAIN_US;
        if (d->facts.runtime_failed)
            updater_restart_runtime(d); /* better than none */
        return;
    }
    *d->back_why = '\0';
    updater_mark_trial(d, false);
    updater_log(TB_LOG_ERR, TB_EVENT_UPDATE_FAILED, version, "is not served, back to the one before", text);
    updater_restart_runtime(d);
}

static void updater_download(struct update_daemon *d)
{
    pid_t pid = update_systemctl_begin("start", NEXT_UNIT);

    if (pid < 0) {
        tb_warn("cannot run systemctl: %s", strerror(-pid));
        d->memory.download_at_us = d->facts.now_boot_us + tb_backoff_next_ms(&d->backoff, -1) * 1000;
        return;
    }
    if (d->facts.download_of != d->facts.wanted) {
        d->backoff.attempt = 0;
        if (d->facts.has_serving)
            updater_log(TB_LOG_INFO, TB_EVENT_UPDATE, d->facts.wanted,
                        "is downloaded beside the one that serves", "");
    }
    d->download = pid;
    d->facts.download_of = d->facts.wanted;
    d->facts.download_runs = true;
}

static void updater_reap(struct update_daemon *d)
{
    int status;

    if (d->download == 0 || waitpid(d->download, &status, WNOHANG) <= 0)
        return;
    d->download = 0;
    d->facts.download_runs = false;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        d->gone_is_here |= d->gone == d->facts.download_of;
        return;
    }
    d->memory.download_at_us = tb_now_boottime_us() + tb_backoff_next_ms(&d->backoff, -1) * 1000;
    if (!d->facts.has_serving)
        d->facts.download_of = 0; /* nothing was found out */
}

static void updater_do(struct update_daemon *d, enum update_action a, const char *why)
{
    switch (a) {
    case UPDATE_WAIT:
        break;
    case UPDATE_ADOPT:
    case UPDATE_DOWNLOAD:
        updater_download(d);
        break;
    case UPDATE_ABANDON:
        (void)update_systemctl("stop", NEXT_UNIT);
        break;
    case UPDATE_TAKE:
        updater_take(d);
        break;
    case UPDATE_DRAIN:
        d->hold_until_us = d->facts.now_boot_us + d->cfg->switch_hold_us;
        break;
    case UPDATE_SWITCH:
        updater_switch(d);
        break;
    case UPDATE_KEEP:
        updater_keep(d);
        break;
    case UPDATE_BACK:
        updater_back(d, why);
        break;
    }
}

/* --- looking -------------------------------------------------------------------------------------------- */

static void updater_hear(struct update_daemon *d)
{
    _cleanup_free_ char *path = tb_path_join(d->run_dir, UPDATE_ASKED), *text = NULL;

    if (!path || tb_read_file(path, 64, &text, NULL) < 0)
        return;
    (void)unlink(path);
    updater_forgive(d);
    d->facts.asked |= strncmp(text, "switch", 6) == 0;
    tb_info("an operator asks: %.20s", text);
}

static bool updater_is_busy(const struct update_daemon *d)
{
    return d->memory.phase == TB_UPDATE_DRAINING || d->memory.phase == TB_UPDATE_SWITCHING ||
           updater_is_on_way_back(d);
}

static void updater_step(struct update_daemon *d)
{
    uint64_t now = tb_now_boottime_us();
    bool ask =
        (updater_is_busy(d) || d->facts.choice.previous) && now - d->asked_systemd_us >= SYSTEMD_EVERY_US;
    enum tb_update_phase before;
    const char *why = "";
    enum update_action a;

    updater_hear(d);
    updater_reap(d);
    if (ask)
        d->asked_systemd_us = now;
    update_look(d->cfg, ask, &d->facts);
    if (d->facts.complete == d->gone && !d->gone_is_here)
        d->facts.complete = 0;
    if (d->trial_marked != (d->facts.choice.previous != 0)) /* tb-hydrate gave it up */
        updater_mark_trial(d, d->facts.choice.previous != 0);
    /* Promoted anew: another version was wanted in between. */
    if (d->failure.version && d->facts.wanted && d->facts.wanted != d->failure.version)
        updater_forgive(d);
    d->facts.failed = d->failure.version;
    before = d->memory.phase;
    a = update_decide(&d->facts, &d->memory, &why);
    if (before == TB_UPDATE_DRAINING && d->memory.phase != before &&
        d->memory.phase != TB_UPDATE_SWITCHING) /* and nothing was stopped */
        d->hold_until_us = 0;
    updater_do(d, a, why);
    if (d->memory.phase == TB_UPDATE_NONE && d->facts.wanted && d->facts.wanted == d->facts.choice.version)
        d->facts.asked = false; /* it is done, or needs no doing any more */
    updater_keep_order(d);
    updater_tell(d);
}

/* Directories appear when their programs start. */
static void updater_watch(struct update_daemon *d)
{
    static const char *const programs[] = {"tb-authorize", "tb-next", "tb-proxy", "tb-runtime", "tb-update"};
    const uint32_t what = IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_CLOSE_WRITE;

    (void)inotify_add_watch(d->inotify_fd, d->cfg->run_dir, IN_CREATE | IN_DELETE | IN_ONLYDIR);
    for (size_t i = 0; i < ARRAY_SIZE(programs); i++) {
        _cleanup_free_ char *dir = tb_path_join(d->cfg->run_dir, programs[i]);

        if (dir)
            (void)inotify_add_watch(d->inotify_fd, dir, what | IN_ONLYDIR);
    }
}

static int updater_patience_ms(const struct update_daemon *d)
{
    uint64_t now = tb_now_boottime_us(), at = d->memory.download_at_us;

    if (updater_is_busy(d))
        return LOOK_BUSY_MS;
    if (d->memory.phase == TB_UPDATE_DOWNLOADING && d->download == 0 && at > now)
        return (int)MIN((at - now) / 1000 + 1, (uint64_t)LOOK_IDLE_MS);
    return LOOK_IDLE_MS;
}

static void updater_wait(struct update_daemon *d)
{
    struct pollfd p[] = {{.fd = d->signal_fd, .events = POLLIN}, {.fd = d->inotify_fd, .events = POLLIN}};
    char dust[4096];

    if (poll(p, ARRAY_SIZE(p), updater_patience_ms(d)) <= 0)
        return;
    for (int signo; (signo = tb_signals_next(d->signal_fd)) > 0;)
        d->quit |= signo != SIGCHLD;
    if (p[1].revents) {
        tb_sleep_ms(GATHER_MS);
        while (read(d->inotify_fd, dust, sizeof(dust)) > 0)
            ;
    }
}

static int updater_open(struct update_daemon *d)
{
    int r = tb_runtime_dir(d->cfg->run_dir, "tb-update", &d->run_dir);

    if (r == 0)
        r = tb_state_dir(d->cfg->state_dir, "tb-update", &d->state_dir);
    if (r < 0)
        return tb_error_errno(r, "cannot use the directories of tb-update in %s and %s", d->cfg->run_dir,
                              d->cfg->state_dir);
    d->signal_fd = tb_signals_open((const int[]){SIGCHLD, 0});
    d->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (d->signal_fd < 0 || d->inotify_fd < 0)
        return tb_error_errno(d->signal_fd < 0 ? d->signal_fd : -errno, "cannot wait for events");
    update_failure_read(d->state_dir, d->cfg->asset_id, &d->failure);
    d->facts.asked = d->order_kept = update_order_read(d->state_dir, d->cfg->asset_id);
    return 0;
}

/* Killed in the middle of a switch: what was chosen may not have been started yet, those who wait go on
 * waiting, and what an operator asked for, or a window had begun, is still to be done. */
static void updater_resume(struct update_daemon *d)
{
    uint64_t begun = update_version_begun(d->cfg->run_dir);
    struct tb_update left;
    bool ending;

    if (tb_update_read(d->cfg->run_dir, &left) < 0)
        return;
    d->hold_until_us = left.hold_until_boot_us;
    update_look_at_units(&d->facts, &ending);
    if (left.phase == TB_UPDATE_SWITCHING && !ending &&
        (d->facts.runtime_failed || begun != d->facts.choice.version))
        updater_restart_runtime(d);
    d->facts.asked |= left.phase == TB_UPDATE_DRAINING ||
                      (left.phase == TB_UPDATE_SWITCHING && left.next != d->facts.choice.version &&
                       left.next != d->failure.version);
}

int update_run(const struct tb_config *c)
{
    struct update_daemon d = {.cfg = c,
                              .backoff = {.base_ms = DOWNLOAD_AGAIN_MS, .cap_ms = DOWNLOAD_CAP_MS},
                              .facts = {.drain_us = c->switch_drain_us, .timeout_us = c->switch_timeout_us},
                              .written = {.phase = _TB_UPDATE_PHASE_MAX}};

    if (tb_update_policy_parse(c->update, &d.facts.policy) < 0)
        return TB_EXIT_CONFIG;
    if (updater_open(&d) < 0)
        return TB_EXIT_IOERR;
    updater_watch(&d);
    update_look(c, false, &d.facts);
    updater_resume(&d);
    updater_mark_trial(&d, d.facts.has_serving && d.facts.choice.previous);
    tb_notify_ready("Looking");
    while (!d.quit) {
        updater_watch(&d); /* first: what changes while it is looked at is looked at again */
        updater_step(&d);
        updater_wait(&d);
    }
    tb_notify_stopping();
    /* A stop is a suspension or a restart: what is under way goes on from the files, nobody waits for it. */
    d.memory.phase = TB_UPDATE_NONE;
    d.hold_until_us = 0;
    if (d.written.hold_until_boot_us)
        updater_tell(&d);
    tb_close(d.signal_fd);
    tb_close(d.inotify_fd);
    free(d.run_dir);
    free(d.state_dir);
    return TB_EXIT_OK;
}
