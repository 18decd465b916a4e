/* SPDX-License-Identifier: Apache-2.0 */
/* The same as the screen, for programs: tb-status(8), "JSON". */
#include <string.h>

#include "common/attestation.h"
#include "common/json.h"
#include "common/picture.h"
#include "status/status.h"
#include "common/units.h"

static void json_add_string(cJSON *o, const char *name, const char *value)
{
    if (*value)
        cJSON_AddStringToObject(o, name, value);
}

static void json_add_time(cJSON *o, const char *name, uint64_t us)
{
    char text[TB_RFC3339_MAX];

    if (us)
        cJSON_AddStringToObject(o, name, tb_rfc3339_format(us, 1, text));
}

static void json_add_lease(cJSON *doc, const struct tb_snapshot *s)
{
    static const char *const words[] = {"none", "pending", "authorized", "unreachable", "denied", "expired"};
    const struct tb_facts *f = &s->facts;
    cJSON *o = cJSON_AddObjectToObject(doc, "lease");

    cJSON_AddStringToObject(o, "state", words[f->lease]);
    json_add_string(o, "reason", f->lease_reason);
    json_add_string(o, "expires_at", f->expires_at);
    json_add_string(o, "renewed_at", f->renewed_at);
    if (f->has_deadline)
        tb_json_add_uint(o, "grace_ends_in_seconds",
                         f->deadline_boottime_us > s->boottime_us
                             ? (f->deadline_boottime_us - s->boottime_us) / TB_USEC_PER_SEC
                             : 0);
}

static cJSON *json_add_step(cJSON *doc, const char *name, const struct tb_snapshot *s,
                            const struct tb_step *step, const char *unit)
{
    cJSON *o;

    if (step->work == TB_WORK_ABSENT)
        return NULL;
    o = cJSON_AddObjectToObject(doc, name);
    cJSON_AddStringToObject(o, "state", step->phase);
    json_add_string(o, "mode", step->mode);
    json_add_string(o, "reason", step->reason);
    cJSON_AddBoolToObject(o, "writer_dead", tb_status_writer_dead(s, step, unit));
    json_add_time(o, "written_at", step->written_realtime_us);
    return o;
}

static void json_add_bytes(cJSON *o, const struct tb_picture_part *part)
{
    if (!o)
        return;
    tb_json_add_uint(o, "bytes_done", part->done);
    tb_json_add_uint(o, "bytes_total", part->total);
    (void)tb_picture_add_part(o, part);
}

/* The model on its way: tb-proxy's /status has the same. */
static void json_add_model(cJSON *doc, const struct tb_snapshot *s)
{
    const struct tb_facts *f = &s->facts;
    struct tb_picture picture;
    cJSON *o;

    tb_picture_make(f, s->boottime_us, &picture);
    o = json_add_step(doc, "hydrate", s, &f->hydrate, "tb-hydrate.service");
    json_add_bytes(o, &picture.download);
    if (o)
        (void)tb_picture_add_source(o, &picture);
    o = json_add_step(doc, "decrypt", s, &f->decrypt, "tb-decrypt.service");
    json_add_bytes(o, &picture.decrypt);
    o = json_add_step(doc, "delivery", s, &f->delivery, "tb-runtime.service");
    if (o)
        (void)tb_picture_add_delivery(o, &picture);
    (void)tb_repairs_add(doc, picture.repairs, true);
}

static void json_add_units(cJSON *doc, const struct tb_snapshot *s)
{
    cJSON *a;

    if (!s->units_known) {
        cJSON_AddNullToObject(doc, "units");
        cJSON_AddStringToObject(doc, "units_note", s->units_note);
        return;
    }
    a = cJSON_AddArrayToObject(doc, "units");
    for (size_t i = 0; i < s->n_units; i++) {
        const struct tb_unit *u = &s->units[i];
        cJSON *o = cJSON_CreateObject();

        cJSON_AddStringToObject(o, "name", u->name);
        cJSON_AddStringToObject(o, "active", u->active);
        cJSON_AddStringToObject(o, "sub", u->sub);
        json_add_string(o, "result", u->result);
        if (u->exit_code >= 0)
            cJSON_AddNumberToObject(o, "exit_code", u->exit_code);
        if (u->killed_by)
            cJSON_AddNumberToObject(o, "signal", u->killed_by);
        tb_json_add_uint(o, "restarts", u->restarts);
        json_add_string(o, "status", u->text);
        json_add_time(o, "since", u->since_realtime_us);
        cJSON_AddItemToArray(a, o);
    }
}

static void json_add_errors(cJSON *doc, const struct tb_snapshot *s)
{
    cJSON *a;

    if (!s->errors_known) {
        cJSON_AddNullToObject(doc, "errors");
        cJSON_AddStringToObject(doc, "errors_note", s->errors_note);
        return;
    }
    a = cJSON_AddArrayToObject(doc, "errors");
    for (size_t i = 0; i < s->n_errors; i++) {
        const struct tb_error_line *e = &s->errors[i];
        cJSON *o = cJSON_CreateObject();

        json_add_time(o, "time", e->realtime_us);
        cJSON_AddStringToObject(o, "program", e->program);
        cJSON_AddNumberToObject(o, "priority", e->priority);
        cJSON_AddNumberToObject(o, "times", e->times);
        cJSON_AddStringToObject(o, "message", e->message);
        cJSON_AddItemToArray(a, o);
    }
}

/* The control plane and the clock, as tb-authorize last saw them. */
static void json_add_contact(cJSON *doc, const struct tb_snapshot *s)
{
    const struct tb_contact *c = &s->facts.contact;
    double offset;
    cJSON *o;

    if (!c->known)
        return;
    o = cJSON_AddObjectToObject(doc, "control_plane");
    cJSON_AddBoolToObject(o, "reachable", c->reachable);
    json_add_string(o, "reason", c->reason);
    json_add_time(o, "asked_at", c->asked_real_us);
    if (tb_contact_clock_offset(c, s->realtime_us, s->boottime_us, &offset))
        cJSON_AddNumberToObject(o, "clock_ahead_seconds", (double)(int64_t)(offset * 10) / 10);
}

static void json_add_client(cJSON *doc, const struct tb_status_probe *p)
{
    cJSON *o = p->addr[0] ? cJSON_AddObjectToObject(doc, "public_port") : NULL;

    if (!o)
        return;
    cJSON_AddStringToObject(o, "address", p->addr);
    cJSON_AddBoolToObject(o, "answers", p->answered);
    json_add_string(o, "error", p->error);
}

static void json_add_places(cJSON *doc, const struct tb_snapshot *s)
{
    cJSON *a = cJSON_AddArrayToObject(doc, "places");

    for (int i = 0; i < _TB_PLACE_MAX; i++) {
        const struct tb_place *p = &s->places[i];
        cJSON *o = p->known ? cJSON_CreateObject() : NULL;

        if (!o)
            continue;
        cJSON_AddStringToObject(o, "name", tb_place_name(i));
        cJSON_AddStringToObject(o, "path", p->path);
        tb_json_add_uint(o, "free_bytes", p->free_bytes);
        tb_json_add_uint(o, "size_bytes", p->size_bytes);
        tb_json_add_uint(o, "low_bytes", p->low_bytes);
        cJSON_AddItemToArray(a, o);
    }
}

static void json_add_problems(cJSON *doc, const struct tb_conclusion *c)
{
    cJSON *a = cJSON_AddArrayToObject(doc, "problems");

    for (size_t i = 0; i < c->n_problems; i++) {
        cJSON *o = cJSON_CreateObject();

        cJSON_AddStringToObject(o, "level",
                                c->problems[i].level == TB_STATUS_CRITICAL ? "critical" : "warning");
        cJSON_AddStringToObject(o, "what", c->problems[i].what);
        json_add_string(o, "remedy", c->problems[i].remedy);
        cJSON_AddItemToArray(a, o);
    }
}

static void json_add_version(cJSON *doc, const struct tb_facts *f)
{
    const struct tb_update *u = &f->update;
    cJSON *o = u->serving ? cJSON_AddObjectToObject(doc, "asset_version") : NULL;

    if (!o)
        return;
    tb_json_add_uint(o, "serving", u->serving);
    if (u->next)
        tb_json_add_uint(o, "next", u->next);
    cJSON_AddStringToObject(o, "state", tb_update_phase_name(u->phase));
    cJSON_AddStringToObject(o, "when", u->when);
    json_add_string(o, "reason", u->reason);
    if (u->switch_at_real_us)
        json_add_time(o, "switch_at", u->switch_at_real_us);
    if (u->phase == TB_UPDATE_DOWNLOADING && tb_next_percent(f) >= 0)
        tb_json_add_uint(o, "percent", (uint64_t)tb_next_percent(f));
}

char *tb_status_json(const struct tb_snapshot *s, const struct tb_conclusion *c, bool one_line)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    const struct tb_facts *f = &s->facts;

    if (!doc)
        return NULL;
    json_add_time(doc, "time", s->realtime_us);
    cJSON_AddStringToObject(doc, "state", c->state);
    cJSON_AddBoolToObject(doc, "ready", c->exit_code == TB_STATUS_READY);
    cJSON_AddStringToObject(doc, "reason", c->reason);
    json_add_string(doc, "since", s->proxy.came ? s->proxy.since : f->suspended_since);
    json_add_string(doc, "contract_id", s->proxy.contract_id[0] ? s->proxy.contract_id : f->contract_id);
    json_add_string(doc, "asset_id", s->proxy.asset_id[0] ? s->proxy.asset_id : f->asset_id);
    if (s->proxy.has_requests)
        tb_json_add_uint(doc, "requests_processed", s->proxy.requests);
    json_add_version(doc, f);
    json_add_lease(doc, s);
    (void)tb_attestation_add(doc, f);
    json_add_model(doc, s);
    json_add_contact(doc, s);
    json_add_client(doc, &s->client);
    json_add_places(doc, s);
    json_add_problems(doc, c);
    json_add_units(doc, s);
    json_add_errors(doc, s);
    return one_line ? cJSON_PrintUnformatted(doc) : cJSON_Print(doc);
}
