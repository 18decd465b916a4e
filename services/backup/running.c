/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <systemd/sd-bus.h>

#include "backup/backup.h"
#include "common/io.h"
#include "common/units.h"

#define SYSTEMD "org.freedesktop.systemd1"
/* Longer than systemd lets a unit take to end. */
#define WAIT_MS 100000
#define WAIT_STEP_MS 100
#define REMEDY "stop it first: systemctl stop trustbridge-apply.target (this stops serving)"

static void running_close_bus(sd_bus **b)
{
    sd_bus_flush_close_unref(*b);
}

/* Does systemd end it? Stopping a target returns at once; its units have their own time and order. */
static bool running_ends(sd_bus *bus, const char *path, const char *state)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    _cleanup_free_ char *type = NULL;
    const char *job;
    uint32_t id;

    if (strcmp(state, "deactivating") == 0)
        return true;
    return sd_bus_get_property(bus, SYSTEMD, path, SYSTEMD ".Unit", "Job", NULL, &m, "(uo)") >= 0 &&
           sd_bus_message_read(m, "(uo)", &id, &job) > 0 && id > 0 &&
           sd_bus_get_property_string(bus, SYSTEMD, job, SYSTEMD ".Job", "JobType", NULL, &type) >= 0 &&
           strcmp(type, "stop") == 0;
}

/* A unit that systemd does not know, or of which it does not tell, does not run. */
static bool running_unit(sd_bus *bus, const char *unit)
{
    _cleanup_free_ char *path = NULL;

    if (sd_bus_path_encode("/org/freedesktop/systemd1/unit", unit, &path) < 0)
        return false;
    for (uint64_t waited_ms = 0;; waited_ms += WAIT_STEP_MS) {
        _cleanup_free_ char *state = NULL;

        if (sd_bus_get_property_string(bus, SYSTEMD, path, SYSTEMD ".Unit", "ActiveState", NULL, &state) <
                0 ||
            strcmp(state, "inactive") == 0 || strcmp(state, "failed") == 0)
            return false;
        if (waited_ms >= WAIT_MS || !running_ends(bus, path, state))
            return true;
        tb_sleep_ms(WAIT_STEP_MS);
    }
}

/* What systemd says about those that use the state, or start one that does. Without a bus the locks must
 * do. */
static bool running_by_systemd(const char **ret)
{
    static const char *const units[] = {"tb-authorize.service", "tb-billing.service", "tb-proxy.service",
                                        "tb-proxy.socket", "tb-proxy-health.socket"};
    _cleanup_(running_close_bus) sd_bus *bus = NULL;

    if (sd_bus_open_system(&bus) < 0)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        *ret = units[i];
        if (running_unit(bus, units[i]))
            return true;
    }
    return false;
}

int backup_check_stopped(const struct backup_places *p, struct tb_outcome *o)
{
    const char *unit;

    if (p->elsewhere || !running_by_systemd(&unit))
        return 0;
    return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s is active; " REMEDY, unit);
}

/* -1: there is no such file. */
static int running_lock(const char *path, int flags, int *ret)
{
    _cleanup_close_ int fd = open(path, flags | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

int backup_locks_take(struct backup_locks *l, const struct backup_places *p, struct tb_outcome *o)
{
    _cleanup_free_ char *ledger = tb_path_join(p->state, "tb-billing"),
                        *usage = tb_path_join(p->state, "tb-proxy/usage");
    int r;

    *l = (struct backup_locks){-1, -1};
    if (!ledger || !usage)
        return tb_outcome_set(o, TB_EXIT_IOERR, "not enough memory");
    r = running_lock(ledger, O_RDONLY | O_DIRECTORY, &l->ledger);
    if (r == 0)
        r = running_lock(usage, O_RDWR, &l->usage);
    if (r == -EWOULDBLOCK)
        return tb_outcome_set(o, TB_EXIT_TEMPFAIL, "%s: %s is running; " REMEDY, p->state,
                              l->ledger < 0 ? "tb-billing" : "tb-proxy");
    if (r < 0)
        return tb_outcome_set(o, r == -EACCES ? TB_EXIT_NOPERM : TB_EXIT_IOERR, "%s: %s%s", p->state,
                              strerror(-r), r == -EACCES ? "; run this as root" : "");
    return 0;
}

void backup_locks_release(struct backup_locks *l)
{
    l->ledger = tb_close(l->ledger);
    l->usage = tb_close(l->usage);
}
