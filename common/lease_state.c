/* SPDX-License-Identifier: Apache-2.0 */
#include "common/lease_state.h"

#include <assert.h>
#include <string.h>

#include "common/domain_file.h"
#include "common/json.h"
#include "common/units.h"

static const char *const lease_state_names[_TB_LEASE_STATE_MAX] = {
    [TB_LEASE_PENDING] = "pending",         [TB_LEASE_AUTHORIZED] = "authorized",
    [TB_LEASE_UNREACHABLE] = "unreachable", [TB_LEASE_DENIED] = "denied",
    [TB_LEASE_EXPIRED] = "expired",
};

const char *tb_lease_state_name(enum tb_lease_state s)
{
    assert(s > TB_LEASE_ABSENT && s < _TB_LEASE_STATE_MAX);
    return lease_state_names[s];
}

enum tb_lease_state tb_lease_state_from_name(const char *name)
{
    for (int s = TB_LEASE_ABSENT + 1; s < _TB_LEASE_STATE_MAX; s++)
        if (strcmp(name, lease_state_names[s]) == 0)
            return (enum tb_lease_state)s;
    return TB_LEASE_ABSENT;
}

static int record_add_time(cJSON *o, const char *name, uint64_t real_us)
{
    char text[TB_RFC3339_MAX];

    return cJSON_AddStringToObject(o, name, tb_rfc3339_format(real_us, 0, text)) ? 0 : -ENOMEM;
}

static int record_add_attested(cJSON *doc, const struct tb_attested *a)
{
    cJSON *o = *a->level ? cJSON_AddObjectToObject(doc, "attested") : NULL;

    if (!*a->level)
        return 0;
    if (!o || !cJSON_AddStringToObject(o, "level", a->level) ||
        (*a->image && !cJSON_AddStringToObject(o, "image", a->image)) ||
        (*a->version && !cJSON_AddStringToObject(o, "version", a->version)))
        return -ENOMEM;
    return record_add_time(o, "at", a->at_real_us);
}

int tb_lease_record_write(const char *dir, const struct tb_lease_record *l)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    int r = 0;

    if (!o || !cJSON_AddStringToObject(o, "state", tb_lease_state_name(l->state)) ||
        !cJSON_AddStringToObject(o, "reason", l->reason) ||
        !cJSON_AddStringToObject(o, "contract_id", l->contract_id) ||
        !cJSON_AddStringToObject(o, "asset_id", l->asset_id))
        return -ENOMEM;
    if (l->asset_version)
        r = tb_json_add_uint(o, "asset_version", l->asset_version);
    if (r == 0 && l->billed_by_control_plane && !cJSON_AddStringToObject(o, "billed_by", "control_plane"))
        r = -ENOMEM;
    if (r == 0 && l->has_expiry)
        r = record_add_time(o, "expires_at", l->expires_real_us);
    if (r == 0 && l->has_deadline)
        r = tb_json_add_uint(o, "deadline_boottime_us", l->deadline_boot_us);
    if (r == 0 && l->renewed_real_us > 0)
        r = record_add_time(o, "renewed_at", l->renewed_real_us);
    if (r == 0)
        r = record_add_attested(o, &l->attested);
    if (r == 0)
        r = record_add_time(o, "written_at", l->written_real_us);
    if (r == 0)
        r = tb_json_add_uint(o, "written_boottime_us", l->written_boot_us);
    if (r == 0 && *l->boot_id && !cJSON_AddStringToObject(o, "boot_id", l->boot_id))
        r = -ENOMEM;
    return r < 0 ? r : tb_state_write(dir, TB_LEASE_NAME, o, 0);
}

static const char *record_string(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    (void)tb_json_get_string(o, name, &s, err);
    return s;
}

static uint64_t record_time(const cJSON *o, const char *name)
{
    uint64_t real_us = 0;

    return tb_rfc3339_parse(record_string(o, name), &real_us) == 0 ? real_us : 0;
}

static uint64_t record_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

static void record_get_attested(const cJSON *doc, struct tb_attested *ret)
{
    const cJSON *o = tb_json_member(doc, "attested");

    if (!cJSON_IsObject(o))
        return;
    snprintf(ret->level, sizeof(ret->level), "%s", record_string(o, "level"));
    snprintf(ret->image, sizeof(ret->image), "%s", record_string(o, "image"));
    snprintf(ret->version, sizeof(ret->version), "%s", record_string(o, "version"));
    ret->at_real_us = record_time(o, "at");
}

/* One beyond the integers of JSON is far away, not over. */
static uint64_t record_deadline(const cJSON *o)
{
    const cJSON *m = tb_json_member(o, "deadline_boottime_us");

    return cJSON_IsNumber(m) && m->valuedouble > (double)TB_JSON_INT_MAX
               ? TB_JSON_INT_MAX
               : record_uint(o, "deadline_boottime_us");
}

int tb_lease_record_read(const char *dir, const char *name, struct tb_lease_record *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    int r = tb_state_read_at(dir, name, &o);

    if (r < 0)
        return r;
    *ret = (struct tb_lease_record){
        .state = tb_lease_state_from_name(record_string(o, "state")),
        .billed_by_control_plane = strcmp(record_string(o, "billed_by"), "control_plane") == 0,
        .asset_version = record_uint(o, "asset_version"),
        .has_expiry = tb_json_member(o, "expires_at") != NULL,
        .has_deadline = tb_json_member(o, "deadline_boottime_us") != NULL,
        .expires_real_us = record_time(o, "expires_at"),
        .deadline_boot_us = record_deadline(o),
        .renewed_real_us = record_time(o, "renewed_at"),
        .written_real_us = record_time(o, "written_at"),
        .written_boot_us = record_uint(o, "written_boottime_us"),
    };
    record_get_attested(o, &ret->attested);
    snprintf(ret->boot_id, sizeof(ret->boot_id), "%s", record_string(o, "boot_id"));
    snprintf(ret->reason, sizeof(ret->reason), "%s", record_string(o, "reason"));
    snprintf(ret->contract_id, sizeof(ret->contract_id), "%s", record_string(o, "contract_id"));
    snprintf(ret->asset_id, sizeof(ret->asset_id), "%s", record_string(o, "asset_id"));
    return 0;
}
