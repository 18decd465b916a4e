/* SPDX-License-Identifier: Apache-2.0 */
#include "common/service_state.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/macros.h"

static const char *const state_names[_TB_STATE_MAX] = {
    [TB_STATE_BOOT] = "Boot",       [TB_STATE_AUTHORIZE] = "Authorize", [TB_STATE_HYDRATE] = "Hydrate",
    [TB_STATE_DECRYPT] = "Decrypt", [TB_STATE_READY] = "Ready",         [TB_STATE_SUSPENDED] = "Suspended",
    [TB_STATE_DOWN] = "Down",
};

const char *tb_state_name(enum tb_state s)
{
    assert(s >= 0 && s < _TB_STATE_MAX);
    return state_names[s];
}

enum tb_work tb_work_from_string(const char *s)
{
    if (strcmp(s, "complete") == 0 || strcmp(s, "delivered") == 0)
        return TB_WORK_COMPLETE;
    if (strcmp(s, "failed") == 0)
        return TB_WORK_FAILED;
    return TB_WORK_RUNNING;
}

int tb_next_percent(const struct tb_facts *f)
{
    const struct tb_step *s = &f->next;

    if (s->version != f->update.next || s->bytes_total == 0)
        return -1;
    return (int)(100.0 * (double)MIN(s->bytes_done, s->bytes_total) / (double)s->bytes_total);
}

bool tb_lease_over(const struct tb_facts *f, uint64_t now_boottime_us)
{
    return f->has_deadline && now_boottime_us >= f->deadline_boottime_us;
}

/* What takes the place of a file that was removed: nothing is to be waited for. */
static bool state_set_lost(struct tb_verdict *v, enum tb_state state, const struct tb_facts *f,
                           const char *program)
{
    if (!f->lost || strncmp(f->lost, program, strlen(program)) != 0)
        return false;
    *v = (struct tb_verdict){.state = state, .failed = true};
    snprintf(v->reason, sizeof(v->reason), "state_file_lost: %s", f->lost);
    return true;
}

static void state_set(struct tb_verdict *v, enum tb_state state, const char *reason, const char *otherwise)
{
    v->state = state;
    v->failed = false;
    snprintf(v->reason, sizeof(v->reason), "%s", reason && *reason ? reason : otherwise);
}

/* What waits for a step: its failure explains why, else its own word does; what is left of an earlier run
 * does not. */
static void state_set_step(struct tb_verdict *v, enum tb_state state, const struct tb_step *s,
                           const char *waiting)
{
    if (s->work == TB_WORK_FAILED)
        state_set(v, state, s->reason, "failed");
    else
        state_set(v, state, s->work == TB_WORK_RUNNING ? s->phase : NULL, waiting);
    v->failed = s->work == TB_WORK_FAILED;
}

void tb_state_derive(const struct tb_facts *f, uint64_t now, struct tb_verdict *ret)
{
    if (f->suspended_flag)
        return state_set(ret, TB_STATE_SUSPENDED, f->suspended_reason, "suspended");
    if (f->lease == TB_LEASE_DENIED)
        return state_set(ret, TB_STATE_SUSPENDED, f->lease_reason, "denied");
    if (f->lease == TB_LEASE_EXPIRED || tb_lease_over(f, now))
        return state_set(ret, TB_STATE_SUSPENDED, NULL, "lease_expired");
    if (f->lease == TB_LEASE_ABSENT && state_set_lost(ret, TB_STATE_BOOT, f, "tb-authorize/"))
        return;
    if (f->lease == TB_LEASE_ABSENT)
        return state_set(ret, TB_STATE_BOOT, NULL, "starting");
    if (f->lease == TB_LEASE_PENDING)
        return state_set(ret, TB_STATE_AUTHORIZE, f->lease_reason, "waiting_for_control_plane");
    /* Weights that were delivered whole were verified before: hydrate's file may be gone with its unit by
     * now. */
    if (f->delivery.work == TB_WORK_COMPLETE) {
        if (!f->runtime_healthy)
            return state_set(ret, TB_STATE_DECRYPT, NULL, "runtime_not_answering");
        if (f->audit_trouble[0])
            return state_set(ret, TB_STATE_DOWN, f->audit_trouble, "audit_unavailable");
        return state_set(ret, TB_STATE_READY, NULL,
                         f->lease == TB_LEASE_UNREACHABLE ? "control_plane_unreachable" : "");
    }
    if ((f->hydrate.work == TB_WORK_ABSENT && state_set_lost(ret, TB_STATE_HYDRATE, f, "tb-hydrate/")) ||
        (f->delivery.work == TB_WORK_ABSENT && state_set_lost(ret, TB_STATE_DECRYPT, f, "tb-runtime/")))
        return;
    if (f->hydrate.work != TB_WORK_COMPLETE)
        return state_set_step(ret, TB_STATE_HYDRATE, &f->hydrate, "waiting_for_download");
    if (f->decrypt.work == TB_WORK_FAILED || f->delivery.work == TB_WORK_ABSENT)
        return state_set_step(ret, TB_STATE_DECRYPT, &f->decrypt, "waiting_for_runtime");
    state_set_step(ret, TB_STATE_DECRYPT, &f->delivery, "delivering");
}
