/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the conclusion ask of a snapshot, and of each other. No I/O. */
#include <string.h>

#include "common/macros.h"
#include "common/units.h"
#include "status/conclude.h"

#define RESTLESS_US (120 * TB_USEC_PER_SEC)

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

bool tb_status_restless(const struct tb_snapshot *s, const struct tb_conclusion *c, const struct tb_unit *u)
{
    static const char *const model[] = {"tb-decrypt.service", "tb-hydrate.service", "tb-runtime.service"};

    if (u->restarts < 2 || s->realtime_us > u->since_realtime_us + RESTLESS_US)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(model); i++)
        if (strcmp(c->state, "Ready") == 0 && strcmp(u->name, model[i]) == 0)
            return false; /* whatever it was, it serves now */
    return true;
}

bool tb_status_is_switching(const struct tb_snapshot *s)
{
    const struct tb_update *u = &s->facts.update;

    return u->phase == TB_UPDATE_DRAINING || u->phase == TB_UPDATE_SWITCHING;
}

bool tb_status_requests_wait(const struct tb_snapshot *s, const struct tb_conclusion *c)
{
    return tb_status_is_switching(s) && s->boottime_us < s->facts.update.hold_until_boot_us &&
           strcmp(c->state, "Suspended") != 0 && strcmp(c->state, "Down") != 0;
}

void tb_status_explain(struct tb_status_work *w, const char *unit)
{
    if (w->n_explained < TB_STATUS_EXPLAINED_MAX)
        w->explained[w->n_explained++] = unit;
}

bool tb_status_explains(const struct tb_status_work *w, const char *unit)
{
    for (size_t i = 0; i < w->n_explained; i++)
        if (strcmp(w->explained[i], unit) == 0)
            return true;
    return false;
}
