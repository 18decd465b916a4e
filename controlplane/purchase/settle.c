/* SPDX-License-Identifier: Apache-2.0 */
#include "controlplane/purchase/settle.h"

#include <stdarg.h>
#include <string.h>
#include <strings.h>

#include "common/units.h"

#define SETTLE_ACTOR "marketplace"
#define SETTLE_RETRY_US (5 * TB_USEC_PER_SEC)
#define SETTLE_RETRY_US_MAX (600 * TB_USEC_PER_SEC)
#define SETTLE_SOON_US (30 * TB_USEC_PER_SEC)
#define SETTLE_AGAIN_US (12ULL * 3600 * TB_USEC_PER_SEC) /* a notification may have been lost */
#define SUBSCRIPTION_AT 15                               /* behind "/subscriptions/" */
#define SUBSCRIPTION_CHARS 36

/* One settlement at work. */
struct settle {
    struct cp_store *s;
    struct cp_settlement *t;
    struct cp_application a;
    struct cp_contract c;
    struct cp_purchase last; /* number 0: none */
    char own[TB_APPLICATION_CONTRACT_MAX + 1];
};

static void settle_say(struct settle *x, bool warn, const char *fmt, ...) _printf_(3, 4);
static void settle_say(struct settle *x, bool warn, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(x->t->said, sizeof(x->t->said), fmt, ap);
    va_end(ap);
    x->t->warn = warn;
}

/* The provider must do something; said once. */
static int settle_hold(struct settle *x, const char *fmt, ...) _printf_(2, 3);
static int settle_hold(struct settle *x, const char *fmt, ...)
{
    char problem[CP_PROBLEM_MAX + 1];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(problem, sizeof(problem), fmt, ap);
    va_end(ap);
    if (x->a.state != CP_APPLICATION_HELD || strcmp(x->a.problem, problem) != 0)
        settle_say(x, true, "%s", problem);
    strcpy(x->a.problem, problem);
    x->a.state = CP_APPLICATION_HELD;
    return 0;
}

static int settle_log(struct settle *x, const char *action)
{
    return cp_change(x->s, x->t->now_us, SETTLE_ACTOR, action, x->a.contract_id, "application",
                     x->a.application_id, "source", *x->a.source ? x->a.source : NULL, "resource_usage_id",
                     *x->a.resource_usage_id ? x->a.resource_usage_id : NULL, "event", x->a.event, "asset",
                     x->c.asset_id, "state", x->c.active ? "active" : x->c.reason);
}

/* -- the contract of a purchase ----------------------------------------------------------------- */
static void settle_terms(struct settle *x, const struct cp_offer *o)
{
    strcpy(x->c.asset_id, o->asset_id);
    x->c.version = o->version;
    x->c.mode = o->mode;
    x->c.lease_seconds = o->lease_seconds;
    x->c.max_hw = o->max_hw;
    x->c.slot_ttl_s = o->slot_ttl_s;
}

/* The machines and codes of another purchase are none of this one. A purchase whose deletion failed goes on
 * with its own. */
static int settle_forget(struct settle *x)
{
    const struct cp_purchase *p = &x->last;
    int r;

    if (*p->resource_usage_id && strcmp(p->resource_usage_id, x->a.resource_usage_id) == 0)
        return 0;
    r = cp_store_forget_identities(x->s, x->c.contract_id);
    return r < 0 ? r : cp_store_end_codes(x->s, x->c.contract_id, p->to_us);
}

/* Into force, unless a person refused it. */
static int settle_activate(struct settle *x, bool exists)
{
    int r = 0;

    if (exists && !x->c.active && !cp_purchase_end_reason_is(x->c.reason)) {
        settle_say(x, true, "contract %s is bought, and stays refused (%s): `contract allow %s` serves it",
                   x->c.contract_id, x->c.reason, x->c.contract_id);
        return settle_log(x, "contract.buy");
    }
    if (exists && !x->c.active)
        r = settle_forget(x);
    x->c.active = true;
    x->c.reason[0] = '\0';
    x->c.updated_us = x->t->now_us;
    if (r == 0)
        r = cp_store_put_contract(x->s, &x->c, true);
    if (r == 0)
        r = settle_log(x, "contract.buy");
    settle_say(x, false, "contract %s for %s", x->c.contract_id, x->c.asset_id);
    return r;
}

/* The contract that the plan is sold with: made, or changed with the plan. */
static int settle_grant_own(struct settle *x)
{
    bool changed = x->last.number && strcmp(x->last.source, x->a.source) != 0, exists;
    struct cp_offer o;
    int r = cp_store_find_offer(x->s, x->a.source, &o);

    if (r == -ENOENT)
        return settle_hold(x, "no offer has the plan '%.120s': `offer add NAME --plan PLAN --asset ASSET`",
                           x->a.source);
    if (r == 0)
        r = cp_store_get_contract(x->s, x->own, x->t->now_us, &x->c);
    exists = r == 0;
    if (r < 0 && r != -ENOENT)
        return r;
    if (!exists)
        x->c = (struct cp_contract){.created_us = x->t->now_us};
    strcpy(x->c.contract_id, x->own);
    strcpy(x->a.contract_id, x->own);
    if (exists && x->a.state == CP_APPLICATION_GRANTED && !changed)
        return 0;
    if (!exists || changed || cp_purchase_end_reason_is(x->c.reason))
        settle_terms(x, &o);
    x->a.state = CP_APPLICATION_GRANTED;
    return settle_activate(x, exists);
}

/* The contract that the customer wrote into the form, if it waits for this customer: who knows a contract's
 * id may neither pay for it nor end it. */
static int settle_grant_named(struct settle *x, const char *named)
{
    char awaited[SUBSCRIPTION_CHARS + 1], subscription[SUBSCRIPTION_CHARS + 1];
    struct cp_application other;
    int r = cp_store_get_contract(x->s, named, x->t->now_us, &x->c);

    snprintf(subscription, sizeof(subscription), "%.36s", x->a.application_id + SUBSCRIPTION_AT);
    if (r == 0)
        r = cp_store_awaited_purchase(x->s, named, awaited);
    if (r == -ENOENT || (r == 0 && strcasecmp(awaited, subscription) != 0))
        return settle_hold(x,
                           "it names contract %.60s, which waits for no purchase from this subscription: "
                           "`contract await %.60s --subscription %s` if that is right",
                           named, named, subscription);
    if (r == 0)
        r = cp_store_get_application_of(x->s, named, &other);
    if (r == 0 && strcmp(other.application_id, x->a.application_id) != 0 &&
        other.state == CP_APPLICATION_GRANTED)
        return settle_hold(x, "it names contract %.60s, which another application has bought", named);
    if (r < 0 && r != -ENOENT)
        return r;
    strcpy(x->a.contract_id, named);
    if (x->a.state == CP_APPLICATION_GRANTED)
        return 0;
    x->a.state = CP_APPLICATION_GRANTED;
    return settle_activate(x, true);
}

static int settle_grant(struct settle *x)
{
    const char *named = x->t->arm.contract_id;
    int r;

    if (x->a.state == CP_APPLICATION_GRANTED)
        r = strcmp(x->a.contract_id, x->own) == 0 ? settle_grant_own(x) : 0;
    else
        r = *named && strcmp(named, x->own) != 0 ? settle_grant_named(x, named) : settle_grant_own(x);
    if (r < 0 || x->a.state != CP_APPLICATION_GRANTED)
        return r;
    x->a.problem[0] = '\0';
    return cp_store_begin_purchase(x->s, &x->a, x->t->now_us);
}

static int settle_end(struct settle *x)
{
    const char *reason = cp_purchase_end_reason(&x->a, x->t->arm.existence, x->t->arm.provisioning);
    int r;

    x->a.problem[0] = '\0';
    if (x->a.state != CP_APPLICATION_GRANTED) {
        x->a.state = CP_APPLICATION_ENDED;
        return 0;
    }
    x->a.state = CP_APPLICATION_ENDED;
    r = cp_store_end_purchase(x->s, x->a.application_id, x->t->now_us);
    if (r == 0)
        r = cp_store_get_contract(x->s, x->a.contract_id, x->t->now_us, &x->c);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    if (x->c.active) {
        x->c.active = false;
        snprintf(x->c.reason, sizeof(x->c.reason), "%s", reason);
        x->c.updated_us = x->t->now_us;
        r = cp_store_put_contract(x->s, &x->c, true);
    }
    settle_say(x, false, "contract %s ends (%s)", x->c.contract_id, reason);
    return r == 0 ? settle_log(x, "contract.end") : r;
}

/* -- the application --------------------------------------------------------------------------- */
static uint64_t settle_backoff(uint64_t base_us, uint64_t tries)
{
    return MIN(base_us << MIN(tries, 20ULL), SETTLE_RETRY_US_MAX);
}

/* When it is looked at next. */
static uint64_t settle_next(const struct settle *x, enum cp_wish wish)
{
    static const char *const final[] = {"Succeeded", "Failed", "Canceled", "Deleted"};
    const struct cp_arm_application *arm = &x->t->arm;
    bool is_final = false;

    if (!x->t->verify)
        return 0;
    if (arm->existence == CP_EXISTENCE_GONE && wish == CP_WISH_END)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(final); i++)
        is_final |= strcasecmp(arm->provisioning, final[i]) == 0;
    return x->t->now_us +
           (wish != CP_WISH_WAIT && is_final ? SETTLE_AGAIN_US : settle_backoff(SETTLE_SOON_US, x->a.tries));
}

/* What Resource Manager says goes before what a notification said. */
static void settle_merge(struct settle *x)
{
    const struct cp_arm_application *arm = &x->t->arm;
    const char *state = strchr(x->a.event, ' ');

    if (arm->existence == CP_EXISTENCE_UNKNOWN)
        x->a.succeeded |=
            strncasecmp(x->a.event, "DELETE", 6) != 0 && state && strcasecmp(state + 1, "Succeeded") == 0;
    if (arm->existence == CP_EXISTENCE_GONE && !x->a.missing_us)
        x->a.missing_us = x->t->now_us;
    if (arm->existence != CP_EXISTENCE_FOUND)
        return;
    x->a.missing_us = 0;
    x->a.succeeded |= strcasecmp(arm->provisioning, "Succeeded") == 0;
    if (*arm->source)
        strcpy(x->a.source, arm->source);
    if (*arm->resource_usage_id)
        strcpy(x->a.resource_usage_id, arm->resource_usage_id);
    if (*arm->managed_group)
        strcpy(x->a.managed_group, arm->managed_group);
}

static int settle_decide(struct settle *x)
{
    bool deleted = x->t->arm.existence == CP_EXISTENCE_GONE ||
                   (!x->t->verify && strcasecmp(x->a.event, "DELETE Deleted") == 0);
    enum cp_wish wish;
    int r = 0;

    settle_merge(x);
    wish = cp_purchase_judge(&x->a, x->t->arm.existence, x->t->arm.provisioning, x->t->now_us);
    if (wish != CP_WISH_WAIT)
        x->a.tries = 0;
    if (wish == CP_WISH_GRANT)
        r = settle_grant(x);
    if (wish == CP_WISH_END)
        r = settle_end(x);
    if (wish == CP_WISH_END && deleted)
        x->a.succeeded = false; /* the next purchase is another */
    if (x->a.check_us == x->t->claimed_check_us)
        x->a.check_us = settle_next(x, wish);
    x->a.tries++;
    return r;
}

static void settle_fail(struct settle *x)
{
    if (strcmp(x->a.problem, x->t->failure) != 0)
        settle_say(x, true, "%s", x->t->failure);
    snprintf(x->a.problem, sizeof(x->a.problem), "%s", x->t->failure);
    if (x->a.check_us == x->t->claimed_check_us)
        x->a.check_us = x->t->now_us + settle_backoff(SETTLE_RETRY_US, x->a.tries);
    x->a.tries++;
}

int cp_purchase_settle(struct cp_store *s, void *ctx)
{
    struct settle x = {.s = s, .t = ctx};
    int r;

    x.t->said[0] = '\0';
    x.t->warn = false;
    r = cp_store_get_application(s, x.t->application_id, &x.a);
    if (r == 0)
        r = tb_application_contract(x.a.application_id, x.own);
    if (r == 0)
        r = cp_store_last_purchase(s, x.t->application_id, &x.last);
    if (r == -ENOENT && *x.own)
        r = 0;
    if (r < 0)
        return r;
    if (x.t->failure)
        settle_fail(&x);
    else
        r = settle_decide(&x);
    x.a.updated_us = x.t->now_us;
    x.t->state = x.a.state;
    return r < 0 ? r : cp_store_put_application(s, &x.a);
}
