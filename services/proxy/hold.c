/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/hold.h"

#include <string.h>

#include "common/units.h"
#include "proxy/admin/health.h"
#include "proxy/server.h"

bool tb_hold_wanted(const struct tb_facts *f, const struct tb_verdict *v, uint64_t now)
{
    const struct tb_update *u = &f->update;

    if (now >= u->hold_until_boot_us || v->state == TB_STATE_SUSPENDED || tb_lease_over(f, now))
        return false;
    switch (u->phase) {
    case TB_UPDATE_DRAINING:
        return true;
    case TB_UPDATE_SWITCHING: /* what the old runtime left behind may still look well */
        return v->state != TB_STATE_READY || f->delivery.version != u->next;
    case TB_UPDATE_FAILED: /* the old version is on its way back */
        return v->state != TB_STATE_READY;
    default:
        return false;
    }
}

/* Our own endpoints answer at any time. Of a request line that is not all here nobody knows. */
static bool hold_is_health(const char *p, size_t n)
{
    const char *target, *end = memchr(p, '\n', n);
    size_t len;

    if (!end)
        return true;
    target = memchr(p, ' ', (size_t)(end - p));
    if (!target++)
        return true; /* and what has no target is refused at once */
    len = (size_t)(end - target);
    for (size_t i = 0; i < len; i++)
        if (target[i] == ' ' || target[i] == '?')
            len = i;
    return tb_health_path(target, len);
}

bool tb_hold_request(void *arg, const char *p, size_t n)
{
    const struct tb_server *s = arg;
    const struct tb_monitor *m = &s->monitor;

    if (m->facts.update.hold_until_boot_us == 0 ||
        !tb_hold_wanted(&m->facts, &m->verdict, tb_now_boottime_us()))
        return false;
    while (n > 0 && (*p == '\r' || *p == '\n'))
        p++, n--;
    return !hold_is_health(p, n);
}
