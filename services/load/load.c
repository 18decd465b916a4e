/* SPDX-License-Identifier: Apache-2.0 */
#include "load/load.h"

#include <string.h>

#include "load/cmdline.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/signals.h"
#include "common/domain_file.h"
#include "common/units.h"
#include "common/version.h"

void tb_load_clear(struct tb_load *l)
{
    l->manifest = tbenc_manifest_free(l->manifest);
    l->command = tb_argv_free(l->command);
    free(TAKE_PTR(l->run_dir));
    l->signal_fd = tb_close(l->signal_fd);
}

void tb_load_state(const struct tb_load *l, const char *state)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    int r;

    if (!l->run_dir || !doc)
        return;
    cJSON_AddStringToObject(doc, "state", state);
    cJSON_AddStringToObject(doc, "mode", tb_delivery_name(l->mode));
    if (*l->no_view)
        cJSON_AddStringToObject(doc, "no_view", l->no_view);
    if (strcmp(state, "failed") == 0)
        cJSON_AddStringToObject(doc, "reason", l->outcome.reason);
    if (l->asset_version)
        tb_json_add_uint(doc, "asset_version", l->asset_version);
    tb_json_add_uint(doc, "pid", (uint64_t)getpid());
    (void)tb_state_add_times(doc, l->started_boottime_us);
    r = tb_state_write(l->run_dir, "delivery.json", doc, 0);
    if (r < 0)
        tb_warn("cannot write %s/delivery.json: %s", l->run_dir, strerror(-r));
}

static int ready_text(char **ret)
{
    _cleanup_json_ cJSON *doc = cJSON_CreateObject();
    _cleanup_free_ char *json = NULL;
    char now[TB_RFC3339_MAX];

    if (!doc)
        return -ENOMEM;
    cJSON_AddBoolToObject(doc, "ready", 1);
    cJSON_AddStringToObject(doc, "timestamp", tb_rfc3339_format(tb_now_realtime_us(), 0, now));
    cJSON_AddStringToObject(doc, "sentinel_version", TB_VERSION);
    json = cJSON_Print(doc);
    *ret = json ? tb_strf("%s\n", json) : NULL;
    return *ret ? 0 : -ENOMEM;
}

int tb_ready_write(struct tb_load *l)
{
    const char *path = l->config->ready_signal, *slash = strrchr(path, '/');
    _cleanup_free_ char *parent = strndup(path, slash > path ? (size_t)(slash - path) : 1), *text = NULL;
    int r = parent ? ready_text(&text) : -ENOMEM;

    if (r == 0)
        r = tb_mkdir_p(parent, 0755);
    if (r == 0)
        r = tb_write_file_atomic(path, text, strlen(text), 0644);
    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot write the ready signal %s: %s", path,
                              strerror(-r));
    return 0;
}

void tb_ready_remove(const struct tb_load *l)
{
    if (unlink(l->config->ready_signal) < 0 && errno != ENOENT && errno != ENOTDIR)
        tb_warn("cannot remove the old ready signal %s: %s", l->config->ready_signal, strerror(errno));
}

int tb_load_signal(struct tb_load *l)
{
    int signo = tb_signals_next(l->signal_fd);

    if (signo != SIGCHLD && signo != 0)
        l->stopped_by = signo;
    return signo;
}
