/* SPDX-License-Identifier: Apache-2.0 */
#include "proxy/state_files.h"

#include <string.h>

#include "common/io.h"
#include "common/log.h"
#include "proxy/server.h"

static int keep_usage(struct tb_server *s, const char *path)
{
    return tb_usage_keep(s->usage, path);
}

static int keep_in_flight(struct tb_server *s, const char *path)
{
    return tb_in_flight_keep(s->answers, path);
}

static int keep_keys(struct tb_server *s, const char *path)
{
    return s->keys ? tb_key_store_keep(s->keys, path) : 0;
}

static const struct {
    const char *name;
    int (*keep)(struct tb_server *s, const char *path);
} state_files[] = {
    {"usage", keep_usage},
    {"flight", keep_in_flight},
    {"keys", keep_keys},
};

/* The first file that cannot be kept is told. */
static void state_files_note(const char *state_dir, const char *name, int error,
                             char trouble[static TB_REASON_MAX])
{
    if (!trouble[0])
        snprintf(trouble, TB_REASON_MAX, "%.120s/%s was removed, and cannot be written again: %s", state_dir,
                 name, strerror(-error));
}

void tb_state_files_tick(struct tb_server *s, const char *state_dir, uint64_t now_us)
{
    struct tb_state_files *f = &s->state_files;
    char trouble[TB_REASON_MAX] = "";
    int error;

    if (now_us - f->looked_us < TB_STATE_FILES_US)
        return;
    f->looked_us = now_us;
    for (size_t i = 0; i < ARRAY_SIZE(state_files); i++) {
        _cleanup_free_ char *path = tb_path_join(state_dir, state_files[i].name);
        int r = path ? state_files[i].keep(s, path) : -ENOMEM;

        if (r < 0)
            state_files_note(state_dir, state_files[i].name, r, trouble);
        if (r <= 0)
            continue;
        f->own++;
        tb_warn("%s was removed or replaced; it is written again as it was", path);
    }
    f->put_back = f->own + tb_audit_keep(s->audit, &error);
    if (error < 0)
        state_files_note(state_dir, "audit-head", error, trouble);
    if (trouble[0] && strcmp(trouble, f->trouble) != 0)
        tb_error("%s; it is tried again until that works", trouble);
    memcpy(f->trouble, trouble, sizeof(trouble));
}
