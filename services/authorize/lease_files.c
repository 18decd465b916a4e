/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/lease_files.h"

#include <string.h>

#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/domain_file.h"
#include "common/units.h"

#define PROGRAM "tb-authorize"
#define FLAG "suspended"
#define ALLOWED "allowed"
/* How far the wall clock may have been stepped between two runs for lease.json to count as of the same
 * boot. */
#define SAME_BOOT_US (60 * TB_USEC_PER_SEC)

int tb_lease_files_init(struct tb_lease_files *f, const char *run_base, const char *state_base,
                        const char *contract_id, const char *asset_id)
{
    int r;

    *f = (struct tb_lease_files){.contract_id = contract_id, .asset_id = asset_id};
    r = tb_runtime_dir(run_base, PROGRAM, &f->run_dir);
    if (r == 0)
        r = tb_state_dir(state_base, PROGRAM, &f->state_dir);
    if (r < 0)
        tb_lease_files_clear(f);
    return r;
}

void tb_lease_files_clear(struct tb_lease_files *f)
{
    tb_freep(&f->run_dir);
    tb_freep(&f->state_dir);
}

/* True when the flag is in dir; ret_reason as far as it can be read. */
static bool lease_files_read_flag(const char *dir, char *ret_reason)
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

bool tb_lease_files_subscription_ended(const char *state_base, char ret_reason[static TB_REASON_MAX])
{
    static const char ended[] = "the marketplace says that the subscription has ended";
    _cleanup_json_ cJSON *o = NULL;
    char err[TB_JSON_ERR_MAX], line[2 * TB_REASON_MAX];
    _cleanup_free_ char *dir = tb_path_join(state_base, "tb-billing");
    const char *reason = "";
    int r = dir ? tb_state_read_at(dir, "ended", &o) : -ENOMEM;

    /* Whatever is in it, it stands for the end; one that cannot be read does not: tb-billing would have made
     * it readable. */
    if (r < 0 && r != -EBADMSG)
        return false;
    if (r == 0)
        (void)tb_json_get_string(o, "reason", &reason, err);
    snprintf(line, sizeof(line), "%s%s%s", ended, *reason ? ": " : "", reason);
    tb_reason_sanitise(line, strlen(line), ret_reason);
    return true;
}

/* The flag's opposite, for path units, which see that a file exists but not that it is gone. */
static int lease_files_write_allowed(const struct tb_lease_files *f, uint64_t since_real_us)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];

    if (!o || !cJSON_AddStringToObject(o, "since", tb_rfc3339_format(since_real_us, 0, since)))
        return -ENOMEM;
    return tb_state_write(f->run_dir, ALLOWED, o, 0);
}

static int lease_files_write_flag(const struct tb_lease_files *f, const char *reason, uint64_t since_real_us)
{
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    char since[TB_RFC3339_MAX];
    int r, durable;

    if (!o || !cJSON_AddStringToObject(o, "reason", reason) ||
        !cJSON_AddStringToObject(o, "since", tb_rfc3339_format(since_real_us, 0, since)))
        return -ENOMEM;
    /* The one in the runtime directory stops the chain, the other one keeps it stopped: first things
     * first. */
    r = tb_state_write(f->run_dir, FLAG, o, 0);
    durable = tb_state_write(f->state_dir, FLAG, o, 1);
    return r < 0 ? r : durable;
}

static int lease_files_remove(const char *dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);

    if (!path)
        return -ENOMEM;
    if (unlink(path) < 0)
        return errno == ENOENT ? 0 : -errno;
    return tb_fsync_parent(path);
}

static int lease_files_remove_flag(const struct tb_lease_files *f)
{
    int r = lease_files_remove(f->state_dir, FLAG);

    return r < 0 ? r : lease_files_remove(f->run_dir, FLAG);
}

static int lease_files_write_lease(const struct tb_lease_files *f, const struct tb_lease *l,
                                   const struct tb_clock *now)
{
    bool ends = l->expires_real_us > 0;
    struct tb_lease_record r = {.state = l->state,
                                .asset_version = l->asset_version,
                                .billed_by_control_plane = l->billed_by_control_plane,
                                .has_expiry = ends,
                                .has_deadline = ends,
                                .expires_real_us = l->expires_real_us,
                                .deadline_boot_us = l->deadline_boot_us,
                                .renewed_real_us = l->renewed_real_us,
                                .attested = l->attested,
                                .written_real_us = now->real_us,
                                .written_boot_us = now->boot_us};

    snprintf(r.boot_id, sizeof(r.boot_id), "%s", now->boot_id);
    snprintf(r.reason, sizeof(r.reason), "%s", l->reason);
    snprintf(r.contract_id, sizeof(r.contract_id), "%s", f->contract_id);
    snprintf(r.asset_id, sizeof(r.asset_id), "%s", f->asset_id);
    return tb_lease_record_write(f->run_dir, &r);
}

/* Never both at once. The flag is made whether or not the other could be removed. */
static int lease_files_suspend(const struct tb_lease_files *f, const char *reason, uint64_t since_real_us)
{
    int r = lease_files_remove(f->run_dir, ALLOWED), flag = lease_files_write_flag(f, reason, since_real_us);

    return flag < 0 ? flag : r;
}

int tb_lease_files_write(struct tb_lease_files *f, const struct tb_lease *l, const struct tb_clock *now)
{
    int r = 0, lease;

    if (l->suspended && (!f->flagged || strcmp(f->flag_reason, l->reason) != 0))
        r = lease_files_suspend(f, l->reason, now->real_us);
    lease = lease_files_write_lease(f, l, now);
    if (r == 0)
        r = lease;
    /* Readers that see no flag must find the lease that allows it. */
    if (!l->suspended && f->flagged && r == 0)
        r = lease_files_remove_flag(f);
    if (!l->suspended && (f->flagged || !f->allowed) && r == 0)
        r = lease_files_write_allowed(f, now->real_us);
    if (r < 0)
        return r;
    f->allowed = !l->suspended;
    f->flagged = l->suspended;
    snprintf(f->flag_reason, sizeof(f->flag_reason), "%s", l->reason);
    return 0;
}

static bool lease_files_lack(const char *dir, const char *name)
{
    _cleanup_free_ char *path = tb_path_join(dir, name);

    if (!path || access(path, F_OK) == 0 || errno != ENOENT)
        return false;
    tb_warn("%s was removed; it is written again", path);
    return true;
}

bool tb_lease_files_miss(struct tb_lease_files *f)
{
    bool lease = lease_files_lack(f->run_dir, TB_LEASE_NAME);
    bool allowed = f->allowed && lease_files_lack(f->run_dir, ALLOWED);
    bool flag = f->flagged && lease_files_lack(f->run_dir, FLAG);
    bool durable = f->flagged && lease_files_lack(f->state_dir, FLAG);

    f->allowed = f->allowed && !allowed;
    f->flagged = f->flagged && !flag && !durable;
    return lease || allowed || flag || durable;
}

/* CLOCK_BOOTTIME values mean nothing in another boot. Without the kernel's word for it both clocks must have
 * gone on together since it was written; with it a wall clock that was set meanwhile takes no lease away. */
static bool lease_files_same_boot(const struct tb_lease_record *r, const struct tb_clock *now)
{
    uint64_t went_real, went_boot;

    if (r->written_boot_us == 0 || r->written_boot_us > now->boot_us)
        return false;
    if (*r->boot_id && *now->boot_id)
        return strcmp(r->boot_id, now->boot_id) == 0;
    if (r->written_real_us == 0 || r->written_real_us > now->real_us)
        return false;
    went_real = now->real_us - r->written_real_us;
    went_boot = now->boot_us - r->written_boot_us;
    return MAX(went_real, went_boot) - MIN(went_real, went_boot) < SAME_BOOT_US;
}

static void lease_files_restore_serving(const struct tb_lease_record *r, struct tb_lease *l)
{
    if (r->state != TB_LEASE_AUTHORIZED && r->state != TB_LEASE_UNREACHABLE)
        return;
    if (r->has_expiry && (r->expires_real_us == 0 || r->deadline_boot_us == 0))
        return;
    if (r->renewed_real_us == 0)
        return;
    tb_lease_restore_serving(l, r->expires_real_us, r->deadline_boot_us, r->renewed_real_us,
                             r->state == TB_LEASE_UNREACHABLE ? r->reason : NULL);
    l->asset_version = r->asset_version;
    l->billed_by_control_plane = r->billed_by_control_plane;
}

static void lease_files_restore_lease(const struct tb_lease_files *f, bool suspended, struct tb_lease *l,
                                      const struct tb_clock *now)
{
    struct tb_lease_record r;

    if (tb_lease_record_read(f->run_dir, TB_LEASE_NAME, &r) < 0 || !lease_files_same_boot(&r, now) ||
        strcmp(r.contract_id, f->contract_id) != 0 || strcmp(r.asset_id, f->asset_id) != 0)
        return;
    l->attested = r.attested; /* it tells, and allows nothing */
    if (!suspended)
        lease_files_restore_serving(&r, l);
}

int tb_lease_files_restore(struct tb_lease_files *f, struct tb_lease *l, const struct tb_clock *now)
{
    char reason[TB_REASON_MAX] = "suspended by an earlier run that left no reason";
    bool durable = lease_files_read_flag(f->state_dir, reason),
         flag = lease_files_read_flag(f->run_dir, reason);

    lease_files_restore_lease(f, durable || flag, l, now);
    if (!durable && !flag)
        return tb_lease_files_write(f, l, now);
    tb_lease_restore_suspended(l, reason);
    f->flagged = durable && flag;
    snprintf(f->flag_reason, sizeof(f->flag_reason), "%s", reason);
    return tb_lease_files_write(f, l, now);
}
