/* SPDX-License-Identifier: Apache-2.0 */
#include "common/unit_list.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "common/macros.h"
#include "common/text.h"
#include "common/units.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define SYSTEMD_PRIVATE "unix:path=/run/systemd/private"
#define ANSWER_US (3 * TB_USEC_PER_SEC) /* PID 1 answers at once, or is stuck */

static inline void bus_freep(sd_bus **b)
{
    sd_bus_flush_close_unref(*b);
}

static inline void message_freep(sd_bus_message **m)
{
    sd_bus_message_unref(*m);
}

static int bus_connect_private(sd_bus **ret)
{
    _cleanup_(bus_freep) sd_bus *bus = NULL;
    int r = sd_bus_new(&bus);

    if (r >= 0)
        r = sd_bus_set_address(bus, SYSTEMD_PRIVATE);
    if (r >= 0)
        r = sd_bus_start(bus);
    if (r >= 0)
        *ret = TAKE_PTR(bus);
    return r;
}

static void bus_string(sd_bus *bus, const char *path, const char *interface, const char *name, char *out,
                       size_t size)
{
    _cleanup_free_ char *v = NULL;

    if (sd_bus_get_property_string(bus, SYSTEMD, path, interface, name, NULL, &v) >= 0)
        snprintf(out, size, "%s", v);
}

static void bus_number(sd_bus *bus, const char *path, const char *interface, const char *name, char type,
                       void *ret)
{
    (void)sd_bus_get_property_trivial(bus, SYSTEMD, path, interface, name, NULL, type, ret);
}

static void bus_read_service(sd_bus *bus, const char *path, struct tb_unit *u)
{
    int32_t code = 0, status = 0;

    bus_string(bus, path, SYSTEMD ".Service", "Result", u->result, sizeof(u->result));
    bus_string(bus, path, SYSTEMD ".Service", "StatusText", u->text, sizeof(u->text));
    bus_number(bus, path, SYSTEMD ".Service", "NRestarts", 'u', &u->restarts);
    bus_number(bus, path, SYSTEMD ".Service", "ExecMainCode", 'i', &code);
    bus_number(bus, path, SYSTEMD ".Service", "ExecMainStatus", 'i', &status);
    if (code == CLD_EXITED)
        u->exit_code = status;
    else if (code == CLD_KILLED || code == CLD_DUMPED)
        u->killed_by = (unsigned)status;
}

/* The first stream address of a socket unit. */
static void bus_read_listen(sd_bus *bus, const char *path, char *out, size_t size)
{
    _cleanup_(message_freep) sd_bus_message *m = NULL;
    const char *type, *address;

    if (sd_bus_get_property(bus, SYSTEMD, path, SYSTEMD ".Socket", "Listen", NULL, &m, "a(ss)") < 0 ||
        sd_bus_message_enter_container(m, 'a', "(ss)") < 0)
        return;
    if (sd_bus_message_read(m, "(ss)", &type, &address) > 0 && strcmp(type, "Stream") == 0)
        snprintf(out, size, "%s", address);
}

static void bus_read_unit(sd_bus *bus, const char *path, struct tb_unit *u)
{
    bus_number(bus, path, SYSTEMD ".Unit", "StateChangeTimestamp", 't', &u->since_realtime_us);
    if (tb_text_ends_with(u->name, ".service"))
        bus_read_service(bus, path, u);
    if (tb_text_ends_with(u->name, ".socket"))
        bus_read_listen(bus, path, u->listen, sizeof(u->listen));
}

static int bus_list_units(sd_bus *bus, sd_bus_message **ret)
{
    _cleanup_(message_freep) sd_bus_message *call = NULL;
    char *states[] = {NULL}, *patterns[] = {(char *)"tb-*", (char *)"trustbridge.target", NULL};
    int r = sd_bus_message_new_method_call(bus, &call, SYSTEMD, "/org/freedesktop/systemd1",
                                           SYSTEMD ".Manager", "ListUnitsByPatterns");

    if (r >= 0)
        r = sd_bus_message_append_strv(call, states);
    if (r >= 0)
        r = sd_bus_message_append_strv(call, patterns);
    if (r >= 0)
        r = sd_bus_call(bus, call, 0, NULL, ret);
    return r;
}

static int unit_by_name(const void *a, const void *b)
{
    return strcmp(((const struct tb_unit *)a)->name, ((const struct tb_unit *)b)->name);
}

static int bus_read_all(sd_bus *bus, struct tb_unit_list *l)
{
    _cleanup_(message_freep) sd_bus_message *m = NULL;
    const char *name, *load, *active, *sub, *path, *job;
    int r = bus_list_units(bus, &m);

    if (r >= 0)
        r = sd_bus_message_enter_container(m, 'a', "(ssssssouso)");
    while (r >= 0 && l->n < TB_UNIT_LIST_MAX &&
           (r = sd_bus_message_read(m, "(ssssssouso)", &name, NULL, &load, &active, &sub, NULL, &path, NULL,
                                    &job, NULL)) > 0) {
        struct tb_unit *u = &l->unit[l->n++];

        *u = (struct tb_unit){.exit_code = -1};
        snprintf(u->name, sizeof(u->name), "%s", name);
        snprintf(u->load, sizeof(u->load), "%s", load);
        snprintf(u->active, sizeof(u->active), "%s", active);
        snprintf(u->sub, sizeof(u->sub), "%s", sub);
        snprintf(u->job, sizeof(u->job), "%s", job);
        bus_read_unit(bus, path, u);
    }
    qsort(l->unit, l->n, sizeof(l->unit[0]), unit_by_name);
    return r;
}

int tb_unit_list_read(struct tb_unit_list *ret)
{
    _cleanup_(bus_freep) sd_bus *bus = NULL;
    int r = sd_bus_open_system(&bus);

    ret->n = 0;
    if (r < 0 && geteuid() == 0)
        r = bus_connect_private(&bus);
    if (r < 0)
        return r;
    (void)sd_bus_set_method_call_timeout(bus, ANSWER_US);
    r = bus_read_all(bus, ret);
    return r < 0 ? r : 0;
}

const struct tb_unit *tb_unit_list_find(const struct tb_unit_list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->unit[i].name, name) == 0)
            return &l->unit[i];
    return NULL;
}

bool tb_unit_stopped_slowly(const struct tb_unit *u)
{
    return u && strcmp(u->name, "tb-runtime.service") == 0 && strcmp(u->active, "failed") == 0 &&
           strcmp(u->result, "timeout") == 0;
}

bool tb_unit_runs(const struct tb_unit *u)
{
    return u && (strcmp(u->active, "active") == 0 || strcmp(u->active, "reloading") == 0 ||
                 (strcmp(u->active, "activating") == 0 && strncmp(u->sub, "auto-restart", 12) != 0));
}
