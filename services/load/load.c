/* SPDX-License-Identifier: Apache-2.0 */
#include "load/load.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>

#include "load/cmdline.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "common/signals.h"
#include "load/runtime.h"
#include "common/domain_file.h"
#include "load/trust.h"
#include "common/units.h"
#include "common/version.h"

#define MANIFEST_NAME "model.manifest.json"

int tb_fail(struct tb_load *l, enum tb_exit status, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(l->reason, sizeof(l->reason), fmt, ap);
    va_end(ap);
    return status;
}

static int load_prepare_command(struct tb_load *l)
{
    const char *line = l->config->runtime_exec;
    char err[TB_CMDLINE_ERR_MAX];
    int r;

    if (!line) {
        if (l->config->delivery == TB_DELIVERY_FIFO)
            return 0;
        return tb_fail(l, TB_EXIT_CONFIG,
                       "TB_RUNTIME_EXEC is not set; mode dir needs the command line of the inference "
                       "server, with {model} where the model's path belongs");
    }
    r = tb_cmdline_split(line, strlen(line), &l->command, err);
    if (r == -ENOMEM)
        return tb_fail(l, TB_EXIT_IOERR, "out of memory");
    if (r < 0)
        return tb_fail(l, TB_EXIT_CONFIG, "TB_RUNTIME_EXEC cannot be split into words: %s", err);
    if (!tb_runtime_found(l->command[0]))
        return tb_fail(l, TB_EXIT_CONFIG, "TB_RUNTIME_EXEC: %s is not an executable file%s", l->command[0],
                       strchr(l->command[0], '/') ? "" : " in PATH");
    return 0;
}

static int load_read_manifest(struct tb_load *l)
{
    _cleanup_free_ char *path = tb_path_join(l->config->target_dir, MANIFEST_NAME), *text = NULL;
    struct tbenc_error e = {0};
    size_t len;
    int r;

    if (!path)
        return tb_fail(l, TB_EXIT_IOERR, "out of memory");
    r = tb_read_file(path, TBENC_MANIFEST_MAX, &text, &len);
    if (r == -ENOENT)
        return tb_fail(l, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished", path);
    if (r == -EFBIG)
        return tb_fail(l, TB_EXIT_DATAERR, "%s is larger than any manifest may be", path);
    if (r < 0)
        return tb_fail(l, TB_EXIT_IOERR, "cannot read %s: %s", path, strerror(-r));
    SHA256((const uint8_t *)text, len, l->manifest_sha256);
    r = tbenc_manifest_parse(text, len, 0, &l->manifest, &e);
    if (r < 0)
        return tb_fail(l, r == -ENOMEM ? TB_EXIT_IOERR : TB_EXIT_DATAERR, "%s: %s", path, e.message);
    if (strcmp(l->manifest->asset_id, l->config->asset_id) != 0)
        return tb_fail(l, TB_EXIT_DATAERR, "%s is of asset '%s', TB_ASSET_ID is '%s'", path,
                       l->manifest->asset_id, l->config->asset_id);
    return 0;
}

static int load_check_ciphertext(struct tb_load *l)
{
    _cleanup_free_ char *path = tb_path_join(l->config->target_dir, l->manifest->weights_filename);
    uint64_t want = tbenc_manifest_ciphertext_bytes(l->manifest);
    struct stat st;

    if (!path)
        return tb_fail(l, TB_EXIT_IOERR, "out of memory");
    if (lstat(path, &st) < 0)
        return errno == ENOENT
                   ? tb_fail(l, TB_EXIT_NOINPUT, "%s is not there; tb-hydrate has not finished", path)
                   : tb_fail(l, TB_EXIT_IOERR, "cannot look at %s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != want)
        return tb_fail(l, TB_EXIT_DATAERR, "%s has %jd bytes, the manifest says %" PRIu64, path,
                       (intmax_t)st.st_size, want);
    return 0;
}

int tb_load_check_paths(struct tb_load *l)
{
    const struct tb_config *c = l->config;
    _cleanup_free_ char *model = tb_strf("%s/", c->model_dir);
    int r = tb_trust_check(l, "TB_READY_SIGNAL", c->ready_signal);

    if (r != 0)
        return r;
    if (!model)
        return tb_fail(l, TB_EXIT_IOERR, "out of memory");
    return c->delivery == TB_DELIVERY_FIFO ? tb_trust_check(l, "TB_PIPE_PATH", c->pipe_path)
                                           : tb_trust_check(l, "TB_MODEL_DIR", model);
}

int tb_load_prepare(struct tb_load *l)
{
    int r = load_prepare_command(l);

    if (r == 0)
        r = load_read_manifest(l);
    if (r == 0)
        r = load_check_ciphertext(l);
    return r;
}

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
    cJSON_AddStringToObject(doc, "mode", l->config->delivery == TB_DELIVERY_FIFO ? "fifo" : "dir");
    if (strcmp(state, "failed") == 0)
        cJSON_AddStringToObject(doc, "reason", l->reason);
    tb_json_add_uint(doc, "pid", (uint64_t)getpid());
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
        return tb_fail(l, TB_EXIT_IOERR, "cannot write the ready signal %s: %s", path, strerror(-r));
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
