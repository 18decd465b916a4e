/* SPDX-License-Identifier: Apache-2.0 */
/* tb-load: the first process of the runtime's unit. Makes the place for the weights, has tb-decrypt fill
 * it, and becomes (mode dir) or keeps (mode fifo) the inference server. It never sees the key. Design
 * section 6. */
#include <stdbool.h>
#include <string.h>

#include "common/file_check.h"
#include "common/io.h"
#include "load/cmdline.h"
#include "load/model_dir.h"
#include "load/modes.h"
#include "load/prepare.h"
#include "load/view_mount.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/signals.h"
#include "common/units.h"
#include "common/domain_file.h"

static const char help[] =
    "Usage: tb-load [--help | --version]\n"
    "\n"
    "Has the hydrated asset decrypted into memory and runs $TB_RUNTIME_EXEC on it, "
    "with {model} replaced by the model's\n"
    "path. TB_DELIVERY=dir: files in memory below $TB_MODEL_DIR. "
    "TB_DELIVERY=view: a read-only\n"
    "file system there, which tb-decrypt serves. TB_DELIVERY=s3: an endpoint on a "
    "loopback address that speaks the\n"
    "API of S3, with {s3} replaced by the model's address there. TB_DELIVERY=fifo: the "
    "FIFO $TB_PIPE_PATH.\n"
    "TB_DELIVERY=auto: view where that can be had, else dir where it fits, else s3 if "
    "the command has {s3}.\n"
    "Settings come from the environment.\n"
    "\n"
    "Exit status: the runtime's own; 66 no ciphertext yet, 74 I/O or not enough "
    "memory, 75 try again, 76 the data is\n"
    "not authentic, 77 the key is refused, 78 configuration. See tb-load(8).\n";

/* An asset may have thousands of files; each is a descriptor here until it is sealed. */
static void load_raise_descriptors(struct tb_load *l)
{
    if (getrlimit(RLIMIT_NOFILE, &l->nofile) < 0)
        l->nofile = (struct rlimit){1024, 1024};
    tb_allow_descriptors(TBENC_FILES_MAX + 512);
}

/* What can be had where no view can: dir where it fits, else s3 where the command can take it. */
static int load_choose_without_view(struct tb_load *l)
{
    char no_dir[TB_MODEL_DIR_WHY_MAX];

    l->mode = TB_DELIVERY_DIR;
    if (l->config->delivery == TB_DELIVERY_VIEW || tb_model_dir_fits(l, no_dir)) {
        tb_warn("no view can be had here: %s; the model goes to memory whole, as with TB_DELIVERY=dir",
                l->no_view);
        return 0;
    }
    l->mode = TB_DELIVERY_AUTO;
    if (!tb_cmdline_has(l->command, TB_CMDLINE_S3) || tb_cmdline_has(l->command, TB_CMDLINE_MODEL))
        return tb_outcome_set(
            &l->outcome, TB_EXIT_IOERR,
            "TB_DELIVERY=auto finds no way to deliver the model: no view can be had here: %s; no files in "
            "memory: %s; TB_RUNTIME_EXEC does not have {s3} in place of {model}; one of the three is enough: "
            "allow views, 'swapoff -a' or more memory, or {s3}: docs/runtimes.md",
            l->no_view, no_dir);
    l->mode = TB_DELIVERY_S3;
    tb_warn("no view can be had here: %s; no files in memory: %s; the model is served as with TB_DELIVERY=s3",
            l->no_view, no_dir);
    return 0;
}

/* auto is view where that can be had. */
static int load_choose_mode(struct tb_load *l)
{
    l->mode = l->config->delivery;
    if (l->mode != TB_DELIVERY_VIEW && l->mode != TB_DELIVERY_AUTO)
        return 0;
    l->mode = TB_DELIVERY_VIEW;
    return tb_view_possible(l, l->no_view) ? 0 : load_choose_without_view(l);
}

static int load_deliver(struct tb_load *l)
{
    int r = load_choose_mode(l);

    if (r != 0)
        return r;
    switch (l->mode) {
    case TB_DELIVERY_FIFO:
        return tb_load_fifo(l);
    case TB_DELIVERY_VIEW:
        return tb_load_view(l);
    case TB_DELIVERY_S3:
        return tb_load_s3(l);
    default:
        return tb_load_dir(l);
    }
}

static int load_run(struct tb_load *l)
{
    bool safe;
    int r;

    l->signal_fd = tb_signals_open((const int[]){SIGCHLD, 0});
    if (l->signal_fd < 0) {
        tb_error_errno(l->signal_fd, "cannot wait for signals");
        return TB_EXIT_IOERR;
    }
    load_raise_descriptors(l);
    r = tb_runtime_dir(l->config->run_dir, "tb-runtime", &l->run_dir);
    if (r < 0)
        tb_warn("cannot make a runtime directory under %s: %s; /status will not know of the delivery",
                l->config->run_dir, strerror(-r));
    tb_load_state(l, "waiting");
    r = tb_load_check_paths(l);
    safe = r == 0;
    if (safe) {
        tb_ready_remove(l);
        r = tb_load_prepare(l);
    }
    if (r == 0)
        r = load_deliver(l);
    if (r != 0 || l->stopped_by) {
        tb_load_state(l, "failed");
        if (l->stopped_by)
            tb_info("%s", l->outcome.reason);
        else
            tb_outcome_log(&l->outcome);
        tb_notify_status("%s", l->outcome.reason);
        if (safe)
            tb_ready_remove(l);
    }
    return r;
}

#define LOAD_USER "tb-runtime" /* of tb-runtime.service */

/* What is not set yet may come with the inference server. */
static void load_check(const struct tb_config *c, struct tb_findings *f)
{
    struct tb_outcome o = {0};
    char **command = NULL;

    if (tb_load_command(c, &command, &o) != 0) {
        const char *what = o.reason + strcspn(o.reason, " ");

        tb_findings_add(f, c->runtime_exec ? TB_FINDING_ERROR : TB_FINDING_WARNING, 0, "TB_RUNTIME_EXEC",
                        "%s; %s", what + strspn(what, " "),
                        c->runtime_exec ? "install the inference server, or correct the command line"
                                        : "until then no model is served");
    } else if (command && command[0][0] == '/') {
        tb_file_check_program("TB_RUNTIME_EXEC", command[0], LOAD_USER, f);
    }
    tb_argv_free(command);
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config config = {0};
    _cleanup_(tb_load_clear) struct tb_load l = {
        .config = &config, .signal_fd = -1, .started_boottime_us = tb_now_boottime_us()};
    int r;

    tb_config_main(argc, argv, &(struct tb_program){"tb-load", help, load_check}, &config);
    l.mode = config.delivery;
    r = load_run(&l);
    if (l.stopped_by)
        tb_signals_die(l.stopped_by);
    return r;
}
