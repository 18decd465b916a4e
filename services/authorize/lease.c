/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/lease.h"

#include <assert.h>
#include <string.h>

#include "common/units.h"

struct tb_clock tb_clock_now(void)
{
    static char boot_id[TB_BOOT_ID_MAX];
    struct tb_clock c = {.boot_us = tb_now_boottime_us(), .real_us = tb_now_realtime_us()};

    if (!*boot_id)
        (void)tb_boot_id(boot_id);
    memcpy(c.boot_id, boot_id, sizeof(c.boot_id));
    return c;
}

static void reason_set(char *dst, const char *src)
{
    snprintf(dst, TB_REASON_MAX, "%.*s", TB_REASON_MAX - 1, src);
}

static void backoff_reset(struct tb_lease *l, uint64_t base_ms)
{
    l->backoff = (struct tb_backoff){.base_ms = base_ms, .cap_ms = TB_LEASE_RETRY_CAP_MS};
    l->failures = 0;
    l->trouble[0] = '\0';
}

static uint64_t jittered_us(uint64_t ms)
{
    struct tb_backoff once = {.base_ms = ms, .cap_ms = ms};

    return tb_backoff_next_ms(&once, -1) * 1000;
}

void tb_lease_init(struct tb_lease *l, uint64_t grace_us, const struct tb_clock *now)
{
    *l = (struct tb_lease){
        .state = TB_LEASE_PENDING, .grace_us = grace_us, .next_request_boot_us = now->boot_us};
    backoff_reset(l, TB_LEASE_RETRY_BASE_MS);
}

void tb_lease_restore_suspended(struct tb_lease *l, const char *reason)
{
    l->suspended = true;
    reason_set(l->reason, reason);
}

void tb_lease_restore_serving(struct tb_lease *l, uint64_t expires_real_us, uint64_t deadline_boot_us,
                              uint64_t renewed_real_us, const char *unreachable)
{
    assert(!l->suspended);
    l->state = unreachable ? TB_LEASE_UNREACHABLE : TB_LEASE_AUTHORIZED;
    l->expires_real_us = expires_real_us;
    l->deadline_boot_us = deadline_boot_us;
    l->expires_boot_us = deadline_boot_us > l->grace_us ? deadline_boot_us - l->grace_us : 0;
    l->renewed_real_us = renewed_real_us;
    reason_set(l->reason, unreachable ? unreachable : "");
}

/* Half of what is left, so that a failed renewal leaves room for retries. */
static uint64_t renew_in_us(const struct tb_lease *l, const struct tb_clock *now)
{
    uint64_t ms = TB_LEASE_RENEW_MAX_MS;

    if (l->expires_real_us > 0)
        ms = l->expires_boot_us > now->boot_us ? (l->expires_boot_us - now->boot_us) / 2000 : 0;
    return jittered_us(MIN(MAX(ms, TB_LEASE_RENEW_MIN_MS), TB_LEASE_RENEW_MAX_MS));
}

static void lease_apply_authorized(struct tb_lease *l, const struct authorize_verdict *v,
                                   const struct tb_clock *now)
{
    uint64_t left = v->expires_at_us > now->real_us ? v->expires_at_us - now->real_us : 0;

    left = MIN(left, TB_LEASE_LONGEST_US);
    l->state = TB_LEASE_AUTHORIZED;
    l->suspended = false;
    l->reason[0] = '\0';
    l->billed_by_control_plane = v->billed_by_control_plane;
    l->asset_version = v->grant ? v->grant->version : 0;
    l->renewed_real_us = now->real_us;
    l->attested = v->attested;
    l->attested.at_real_us = now->real_us;
    l->expires_real_us = v->expires_at_us ? now->real_us + left : 0;
    l->expires_boot_us = v->expires_at_us ? now->boot_us + left : 0;
    l->deadline_boot_us = v->expires_at_us ? now->boot_us + left + l->grace_us : 0;
    backoff_reset(l, TB_LEASE_RETRY_BASE_MS);
    l->next_request_boot_us = now->boot_us + renew_in_us(l, now);
}

static void lease_end(struct tb_lease *l, enum tb_lease_state state)
{
    l->state = state;
    l->suspended = true;
    l->expires_real_us = l->expires_boot_us = l->deadline_boot_us = 0;
}

static void lease_apply_denied(struct tb_lease *l, const struct authorize_verdict *v,
                               const struct tb_clock *now)
{
    lease_end(l, TB_LEASE_DENIED);
    reason_set(l->reason, v->outcome.reason);
    backoff_reset(l, TB_LEASE_DENIED_BASE_MS);
    l->next_request_boot_us = now->boot_us + jittered_us(TB_LEASE_DENIED_BASE_MS);
}

/* The control plane is not to be had. Before its expiry a lease takes a few failures without a word. */
static void note_unreachable(struct tb_lease *l, const struct tb_clock *now)
{
    bool past = l->expires_boot_us > 0 && now->boot_us >= l->expires_boot_us;

    if (l->failures == 0)
        return;
    if (l->state == TB_LEASE_AUTHORIZED && (past || l->failures >= TB_LEASE_TRIES))
        l->state = TB_LEASE_UNREACHABLE;
    if (l->state == TB_LEASE_UNREACHABLE || (l->state == TB_LEASE_PENDING && !l->suspended))
        reason_set(l->reason, l->trouble);
}

static void lease_apply_retry(struct tb_lease *l, const struct authorize_verdict *v,
                              const struct tb_clock *now)
{
    l->failures++;
    reason_set(l->trouble, v->outcome.reason);
    l->next_request_boot_us = now->boot_us + tb_backoff_next_ms(&l->backoff, v->retry_after_ms) * 1000;
    note_unreachable(l, now);
}

void tb_lease_apply(struct tb_lease *l, const struct authorize_verdict *v, const struct tb_clock *now)
{
    switch (v->outcome.code) {
    case AUTHORIZE_GRANTED:
        lease_apply_authorized(l, v, now);
        break;
    case AUTHORIZE_DENIED:
        lease_apply_denied(l, v, now);
        break;
    case AUTHORIZE_RETRY:
        lease_apply_retry(l, v, now);
        break;
    }
    l->not_before_boot_us = now->boot_us + TB_LEASE_SPACING_US;
    if (v->retry_after_ms > 0)
        l->not_before_boot_us = now->boot_us + (uint64_t)v->retry_after_ms * 1000;
}

bool tb_lease_tick(struct tb_lease *l, const struct tb_clock *now)
{
    enum tb_lease_state before = l->state;

    note_unreachable(l, now);
    if (tb_lease_serving(l) && l->deadline_boot_us > 0 && now->boot_us >= l->deadline_boot_us) {
        lease_end(l, TB_LEASE_EXPIRED);
        snprintf(l->reason, sizeof(l->reason), "the lease has expired and could not be renewed: %.200s",
                 *l->trouble ? l->trouble : "no answer from the control plane");
    }
    return l->state != before;
}

void tb_lease_ask_soon(struct tb_lease *l, const struct tb_clock *now)
{
    uint64_t at = MAX(now->boot_us, l->not_before_boot_us);

    l->next_request_boot_us = MIN(l->next_request_boot_us, at);
}

bool tb_lease_due(const struct tb_lease *l, const struct tb_clock *now)
{
    return now->boot_us >= l->next_request_boot_us;
}

uint64_t tb_lease_wakeup_us(const struct tb_lease *l, bool asking)
{
    uint64_t at = asking ? UINT64_MAX : l->next_request_boot_us;

    if (l->state == TB_LEASE_AUTHORIZED && l->failures > 0 && l->expires_boot_us > 0)
        at = MIN(at, l->expires_boot_us);
    return l->deadline_boot_us > 0 ? MIN(at, l->deadline_boot_us) : at;
}

bool tb_lease_serving(const struct tb_lease *l)
{
    return !l->suspended && (l->state == TB_LEASE_AUTHORIZED || l->state == TB_LEASE_UNREACHABLE);
}
