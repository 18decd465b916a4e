/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <unistd.h>

#include "common/domain_file.h"
#include "common/facts.h"
#include "common/json.h"
#include "common/lease_state.h"
#include "common/log.h"
#include "common/unit_list.h"
#include "common/units.h"
#include "update/update.h"

static uint64_t look_uint(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t v = 0;

    return o && tb_json_get_uint(o, name, TB_JSON_INT_MAX, &v, err) == 0 ? v : 0;
}

static const char *look_string(const cJSON *o, const char *name)
{
    char err[TB_JSON_ERR_MAX];
    const char *s = "";

    if (o)
        (void)tb_json_get_string(o, name, &s, err);
    return s;
}

static cJSON *look_read(const char *run_dir, const char *name)
{
    cJSON *o = NULL;

    (void)tb_state_read_at(run_dir, name, &o);
    return o;
}

static void look_at_lease(const struct tb_config *c, struct update_facts *f)
{
    struct tb_lease_record l;

    f->lease_serving = false;
    f->wanted = 0;
    if (tb_lease_record_read(c->run_dir, TB_LEASE_FILE, &l) < 0 || strcmp(l.asset_id, c->asset_id) != 0)
        return;
    f->lease_serving = (l.state == TB_LEASE_AUTHORIZED || l.state == TB_LEASE_UNREACHABLE) &&
                       !(l.has_deadline && tb_now_boottime_us() >= l.deadline_boot_us);
    f->wanted = l.asset_version;
}

/* What it has is whole as tb-proxy sees it: of a view tb-decrypt says so, and tb-load is the runtime by then.
 * A runtime from before versions were known has the one that was there then. */
static void look_at_runtime(const struct tb_config *c, struct update_facts *f)
{
    _cleanup_json_ cJSON *proxy = look_read(c->run_dir, "tb-proxy/proxy.json");
    uint64_t before = f->choice.previous ? f->choice.previous : f->choice.version;
    struct tb_facts machine = {0};

    tb_facts_read(c->run_dir, &machine);
    f->delivered = machine.delivery.work == TB_WORK_COMPLETE;
    f->loaded = f->delivered ? machine.delivery.version : 0;
    if (f->delivered && f->loaded == 0)
        f->loaded = before;
    f->healthy = look_uint(proxy, "healthy_version");
    f->drained = cJSON_IsTrue(tb_json_member(proxy, "drained"));
}

uint64_t update_version_begun(const char *run_dir)
{
    _cleanup_json_ cJSON *delivery = look_read(run_dir, "tb-runtime/delivery.json");

    return look_uint(delivery, "asset_version");
}

static void look_at_download(const struct tb_config *c, struct update_facts *f)
{
    _cleanup_json_ cJSON *o = look_read(c->run_dir, "tb-next/progress.json");

    f->complete = strcmp(look_string(o, "state"), "complete") == 0 ? look_uint(o, "asset_version") : 0;
}

/* What tb-hydrate is not done for has not been started yet. */
static bool look_is_stopped(const struct tb_unit *runtime, const struct tb_unit *hydrate)
{
    return runtime && hydrate && !*runtime->job && strcmp(hydrate->active, "active") == 0 &&
           (strcmp(runtime->active, "inactive") == 0 || tb_unit_stopped_slowly(runtime));
}

void update_look_at_units(struct update_facts *f, bool *ret_ending)
{
    struct tb_unit_list *list = calloc(1, sizeof(*list));
    const struct tb_unit *u = NULL, *hydrate = NULL;

    if (list && tb_unit_list_read(list) == 0) {
        u = tb_unit_list_find(list, "tb-runtime.service");
        hydrate = tb_unit_list_find(list, "tb-hydrate.service");
    }
    f->runtime_stopped = look_is_stopped(u, hydrate);
    f->runtime_failed = u && !f->runtime_stopped && strcmp(u->active, "failed") == 0;
    f->restarts_known = u != NULL;
    f->restarts = u ? u->restarts : 0;
    *ret_ending = u && strcmp(u->job, "restart") == 0;
    free(list);
}

void update_look(const struct tb_config *c, bool ask_systemd, struct update_facts *f)
{
    bool ending;

    f->now = (time_t)(tb_now_realtime_us() / TB_USEC_PER_SEC);
    f->now_boot_us = tb_now_boottime_us();
    f->has_serving = tb_serving_read(c->target_dir, c->asset_id, &f->choice) == 0;
    if (!f->has_serving)
        f->choice = (struct tb_serving){0};
    look_at_lease(c, f);
    look_at_runtime(c, f);
    look_at_download(c, f);
    f->runtime_failed = f->restarts_known = false;
    f->runtime_stopped &= f->choice.previous != 0; /* until it is asked again */
    if (ask_systemd)
        update_look_at_units(f, &ending);
}

void update_failure_read(const char *state_dir, const char *asset_id, struct update_failure *ret)
{
    _cleanup_json_ cJSON *o = NULL;

    *ret = (struct update_failure){0};
    if (tb_state_read_at(state_dir, "failed.json", &o) < 0 ||
        strcmp(look_string(o, "asset_id"), asset_id) != 0)
        return;
    ret->version = look_uint(o, "version");
    snprintf(ret->reason, sizeof(ret->reason), "%s", look_string(o, "reason"));
}

int update_failure_write(const char *state_dir, const char *asset_id, const struct update_failure *w)
{
    _cleanup_free_ char *path = tb_path_join(state_dir, "failed.json");
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!path || !o)
        return -ENOMEM;
    if (w->version == 0)
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
    if (!cJSON_AddStringToObject(o, "asset_id", asset_id) || tb_json_add_uint(o, "version", w->version) < 0 ||
        !cJSON_AddStringToObject(o, "reason", w->reason))
        return -ENOMEM;
    return tb_state_write(state_dir, "failed.json", o, 1);
}

bool update_order_read(const char *state_dir, const char *asset_id)
{
    _cleanup_json_ cJSON *o = NULL;

    return tb_state_read_at(state_dir, "ordered.json", &o) == 0 &&
           strcmp(look_string(o, "asset_id"), asset_id) == 0;
}

int update_order_write(const char *state_dir, const char *asset_id, bool ordered)
{
    _cleanup_free_ char *path = tb_path_join(state_dir, "ordered.json");
    _cleanup_json_ cJSON *o = cJSON_CreateObject();

    if (!path || !o || !cJSON_AddStringToObject(o, "asset_id", asset_id))
        return -ENOMEM;
    if (!ordered)
        return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
    return tb_state_write(state_dir, "ordered.json", o, 1);
}

static bool explain_step(const char *run_dir, const char *name, char out[static TB_REASON_MAX])
{
    _cleanup_json_ cJSON *o = look_read(run_dir, name);
    bool failed = strcmp(look_string(o, "state"), "failed") == 0;

    if (failed)
        snprintf(out, TB_REASON_MAX, "%s", look_string(o, "reason"));
    return failed;
}

void update_explain_runtime(const char *run_dir, char out[static TB_REASON_MAX])
{
    *out = '\0';
    if (!explain_step(run_dir, "tb-runtime/delivery.json", out))
        (void)explain_step(run_dir, "tb-decrypt/progress.json", out);
}

void update_explain_download(const char *run_dir, char out[static TB_REASON_MAX])
{
    *out = '\0';
    (void)explain_step(run_dir, "tb-next/progress.json", out);
}
