/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/files.h"

#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/domain_file.h"
#include "common/units.h"

#define PROGRAM "tb-authorize"
#define LEASE "lease.json"
#define FLAG "suspended"
#define ALLOWED "allowed"
/* How far the wall clock may have been stepped between two runs for lease.json to count as of the same boot. */
#define SAME_BOOT_US (60 * TB_USEC_PER_SEC)

int tb_files_init(struct tb_files *f, const char *run_base, const char *state_base, const char *contract_id,
                  const char *asset_id)
{
    int r;

    *f = (struct tb_files){.contract_id = contract_id, .asset_id = asset_id};
    r = tb_runtime_dir(run_base, PROGRAM, &f->run_dir);
    if (r == 0)
        r = tb_state_dir(state_base, PROGRAM, &f->state_dir);
    if (r < 0)
        tb_files_clear(f);
    return r;
}

void tb_files_clear(struct tb_files *f)
{
    tb_freep(&f->run_dir);
    tb_freep(&f->state_dir);
}

/* True when the flag is in dir; ret_reason as far as it can be read. */
static bool read_flag(const char *dir, char *ret_reason)
{
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX];
    const char *reason;
    int r = tb_state_read_at(dir, FLAG, &o);

    if (r == -ENOENT)
        return false;
    if (r == 0 && tb_json_get_string(o, "reason", &reason, err) == 0)
        tb_reason_sanitise(reason, strlen(reason), ret_reason);
    return true;
}

bool tb_files_subscription_ended(const char *state_base, char ret_reason[static TB_REASON_MAX + 1])
{
    static const char told[] = "the marketplace says that the subscription has ended";
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], line[2 * TB_REASON_MAX];
    _cleanup_free_ char *dir = tb_path_join(state_base, "tb-billing");
    const char *reason = "";
    int r = dir ? tb_state_read_at(dir, "ended", &o) : -ENOMEM;

    /* Whatever is in it, it stands for the end; one that cannot be read does not: tb-billing would have made it readable. */
    if (r < 0 && r != -EBADMSG)
        return false;
    if (r == 0)
        (void)tb_json_get_string(o, "reason", &reason, err);
    snprintf(line, sizeof(line), "%s%s%s", told, *reason ? ": " : "", reason);
    tb_reason_sanitise(line, strlen(line), ret_reason);
    return true;
}

/* The flag's opposite, for path units, which see that a file exists but not that it is gone. */
static int write_allowed(const struct tb_files *f, uint64_t since_real_us)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];

    if (!o || !cJSON_AddStringToObject(o, "since", tb_rfc3339_format(since_real_us, 0, since)))
        return -ENOMEM;
    return tb_state_write(f->run_dir, ALLOWED, o, 0);
}

static int write_flag(const struct tb_files *f, const char *reason, uint64_t since_real_us)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];
    int r, durable;

    if (!o || !cJSON_AddStringToObject(o, "reason", reason) ||
        !cJSON_AddStringToObject(o, "since", tb_rfc3339_format(since_real_us, 0, since)))
        return -ENOMEM;
    /* The one in the runtime directory stops the chain, the other one keeps it stopped: first things first. */
    r = tb_state_write(f->run_dir, FLAG, o, 0);
    durable = tb_state_write(f->state_dir, FLAG, o, 1);
    return r < 0 ? r : durable;
}

static int remove_one(const char *dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);

    if (!path)
        return -ENOMEM;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : -errno;
    return tb_fsync_parent(path);
}

static int remove_flag(const struct tb_files *f)
{
    int r = remove_one(f->state_dir, FLAG);

    return r < 0 ? r : remove_one(f->run_dir, FLAG);
}

static int add_time(cJSON *o, const char *name, uint64_t real_us)
{
    char text[TB_RFC3339_MAX];

    return cJSON_AddStringToObject(o, name, tb_rfc3339_format(real_us, 0, text)) ? 0 : -ENOMEM;
}

static int write_lease(const struct tb_files *f, const struct tb_lease *l, const struct tb_clock *now)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    int r = 0;

    if (!o || !cJSON_AddStringToObject(o, "state", tb_lease_state_name(l->state)) ||
        !cJSON_AddStringToObject(o, "reason", l->reason) ||
        !cJSON_AddStringToObject(o, "contract_id", f->contract_id) ||
        !cJSON_AddStringToObject(o, "asset_id", f->asset_id))
        return -ENOMEM;
    if (l->expires_real_us > 0) {
        r = add_time(o, "expires_at", l->expires_real_us);
        if (r == 0)
            r = tb_json_add_uint(o, "deadline_boottime_us", l->deadline_boot_us);
    }
    if (r == 0 && l->renewed_real_us > 0)
        r = add_time(o, "renewed_at", l->renewed_real_us);
    if (r == 0)
        r = add_time(o, "written_at", now->real_us);
    if (r == 0)
        r = tb_json_add_uint(o, "written_boottime_us", now->boot_us);
    return r < 0 ? r : tb_state_write(f->run_dir, LEASE, o, 0);
}

/* Never both at once. The flag is made whether or not the other could be removed. */
static int suspend(const struct tb_files *f, const char *reason, uint64_t since_real_us)
{
    int r = remove_one(f->run_dir, ALLOWED), flag = write_flag(f, reason, since_real_us);

    return flag < 0 ? flag : r;
}

int tb_files_write(struct tb_files *f, const struct tb_lease *l, const struct tb_clock *now)
{
    int r = 0, lease;

    if (l->suspended && (!f->flagged || strcmp(f->flag_reason, l->reason) != 0))
        r = suspend(f, l->reason, now->real_us);
    lease = write_lease(f, l, now);
    if (r == 0)
        r = lease;
    /* Readers that see no flag must find the lease that allows it. */
    if (!l->suspended && f->flagged && r == 0)
        r = remove_flag(f);
    if (!l->suspended && (f->flagged || !f->allowed) && r == 0)
        r = write_allowed(f, now->real_us);
    if (r < 0)
        return r;
    f->allowed = !l->suspended;
    f->flagged = l->suspended;
    snprintf(f->flag_reason, sizeof(f->flag_reason), "%s", l->reason);
    return 0;
}

static int get_time(const cJSON *o, const char *name, uint64_t *ret)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;
    int r = tb_json_get_string(o, name, &s, err);

    return r < 0 ? r : tb_rfc3339_parse(s, ret);
}

static bool string_is(const cJSON *o, const char *name, const char *value)
{
    char err[TB_JSON_ERR_MAX];
    const char *s;

    return tb_json_get_string(o, name, &s, err) == 0 && strcmp(s, value) == 0;
}

/* CLOCK_BOOTTIME values mean nothing in another boot: both clocks must have gone on together since it was written. */
static bool same_boot(const cJSON *o, const struct tb_clock *now)
{
    char err[TB_JSON_ERR_MAX];
    uint64_t real, boot, went_real, went_boot;

    if (get_time(o, "written_at", &real) < 0 ||
        tb_json_get_uint(o, "written_boottime_us", TB_JSON_INT_MAX, &boot, err) < 0 || boot > now->boot_us ||
        real > now->real_us)
        return false;
    went_real = now->real_us - real;
    went_boot = now->boot_us - boot;
    return MAX(went_real, went_boot) - MIN(went_real, went_boot) < SAME_BOOT_US;
}

static void restore_serving(const struct tb_files *f, struct tb_lease *l, const struct tb_clock *now)
{
    _cleanup_json_ cJSON *o = NULL;
    uint64_t expires = 0, deadline = 0, renewed = 0;
    char err[TB_JSON_ERR_MAX];

    if (tb_state_read_at(f->run_dir, LEASE, &o) < 0 || !same_boot(o, now) ||
        !string_is(o, "contract_id", f->contract_id) || !string_is(o, "asset_id", f->asset_id) ||
        (!string_is(o, "state", "authorized") && !string_is(o, "state", "unreachable")))
        return;
    if (tb_json_member(o, "expires_at") &&
        (get_time(o, "expires_at", &expires) < 0 ||
         tb_json_get_uint(o, "deadline_boottime_us", TB_JSON_INT_MAX, &deadline, err) < 0))
        return;
    if (get_time(o, "renewed_at", &renewed) < 0)
        return;
    tb_lease_restore_serving(l, expires, deadline, renewed);
}

int tb_files_restore(struct tb_files *f, struct tb_lease *l, const struct tb_clock *now)
{
    char reason[TB_REASON_MAX + 1] = "suspended by an earlier run that left no reason";
    bool durable = read_flag(f->state_dir, reason), flag = read_flag(f->run_dir, reason);

    if (!durable && !flag) {
        restore_serving(f, l, now);
        return tb_files_write(f, l, now);
    }
    tb_lease_restore_suspended(l, reason);
    f->flagged = durable && flag;
    snprintf(f->flag_reason, sizeof(f->flag_reason), "%s", reason);
    return tb_files_write(f, l, now);
}
