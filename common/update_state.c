/* SPDX-License-Identifier: Apache-2.0 */
#include "common/update_state.h"

#include <string.h>

#include "common/domain_file.h"
#include "common/json.h"
#include "common/units.h"

static const char *const update_phase_names[_TB_UPDATE_PHASE_MAX] = {
    [TB_UPDATE_NONE] = "none",         [TB_UPDATE_DOWNLOADING] = "downloading", [TB_UPDATE_READY] = "ready",
    [TB_UPDATE_DRAINING] = "draining", [TB_UPDATE_SWITCHING] = "switching",     [TB_UPDATE_FAILED] = "failed",
};

const char *tb_update_phase_name(enum tb_update_phase p)
{
    return update_phase_names[p];
}

static int update_add(cJSON *o, const char *name, uint64_t v)
{
    return v ? tb_json_add_uint(o, name, v) : 0;
}

int tb_update_write(const char *dir, const struct tb_update *u)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char at[TB_RFC3339_MAX];

    if (!o || !cJSON_AddStringToObject(o, "state", update_phase_names[u->phase]) ||
        update_add(o, "serving", u->serving) < 0 || update_add(o, "next", u->next) < 0 ||
        !cJSON_AddStringToObject(o, "when", u->when) || !cJSON_AddStringToObject(o, "reason", u->reason))
        return -ENOMEM;
    if (u->switch_at_real_us &&
        !cJSON_AddStringToObject(o, "switch_at", tb_rfc3339_format(u->switch_at_real_us, 0, at)))
        return -ENOMEM;
    if (update_add(o, "hold_until_boottime_us", u->hold_until_boot_us) < 0)
        return -ENOMEM;
    return tb_state_write(dir, TB_UPDATE_NAME, o, 0);
}

static const char *update_string(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    (void)tb_json_get_string(o, name, &s, err);
    return s;
}

static uint64_t update_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

int tb_update_read(const char *run_dir, struct tb_update *ret)
{
    _cleanup_json_ cJSON *o = NULL;
    const char *phase;
    int r = tb_state_read_at(run_dir, TB_UPDATE_FILE, &o);

    *ret = (struct tb_update){.phase = TB_UPDATE_NONE};
    if (r < 0)
        return r;
    phase = update_string(o, "state");
    for (int i = 0; i < _TB_UPDATE_PHASE_MAX; i++)
        if (strcmp(phase, update_phase_names[i]) == 0)
            ret->phase = (enum tb_update_phase)i;
    ret->serving = update_uint(o, "serving");
    ret->next = update_uint(o, "next");
    ret->hold_until_boot_us = update_uint(o, "hold_until_boottime_us");
    snprintf(ret->reason, sizeof(ret->reason), "%s", update_string(o, "reason"));
    snprintf(ret->when, sizeof(ret->when), "%s", update_string(o, "when"));
    if (tb_rfc3339_parse(update_string(o, "switch_at"), &ret->switch_at_real_us) < 0)
        ret->switch_at_real_us = 0;
    return 0;
}

static void describe_ready(const struct tb_update *u, char *out, size_t size)
{
    char at[TB_RFC3339_MAX];

    if (*u->reason)
        snprintf(out, size, "complete; %s", u->reason);
    else if (u->switch_at_real_us)
        snprintf(out, size, "complete, switched to at %s", tb_rfc3339_format(u->switch_at_real_us, 0, at));
    else if (strcmp(u->when, "restart") == 0)
        snprintf(out, size, "complete, served from the runtime's next start on");
    else
        snprintf(out, size, "complete, switched to by tb-update switch");
}

void tb_update_describe(const struct tb_update *u, int percent, char out[static TB_REASON_MAX + 96])
{
    char what[TB_REASON_MAX + 64];

    *out = '\0';
    switch (u->phase) {
    case TB_UPDATE_DOWNLOADING:
        if (*u->reason)
            snprintf(what, sizeof(what), "cannot be downloaded: %s", u->reason);
        else if (percent >= 0)
            snprintf(what, sizeof(what), "downloading, %d %%", percent);
        else
            snprintf(what, sizeof(what), "downloading");
        break;
    case TB_UPDATE_READY:
        describe_ready(u, what, sizeof(what));
        break;
    case TB_UPDATE_DRAINING:
        snprintf(what, sizeof(what), "waiting for the requests that are being served");
        break;
    case TB_UPDATE_SWITCHING:
        snprintf(what, sizeof(what), "being loaded");
        break;
    case TB_UPDATE_FAILED:
        snprintf(what, sizeof(what), "did not serve: %s", u->reason);
        break;
    default:
        return;
    }
    snprintf(out, TB_REASON_MAX + 96, "version %llu: %s", (unsigned long long)u->next, what);
}
