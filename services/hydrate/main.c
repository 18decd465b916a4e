/* SPDX-License-Identifier: Apache-2.0 */
/* tb-hydrate: brings the ciphertext of the licensed asset to TB_TARGET_DIR, then exits. tb-hydrate(8). */
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>

#include "common/config.h"
#include "hydrate/hydrate.h"
#include "common/log.h"
#include "common/notify.h"
#include "common/secret.h"

static const char help[] =
    "Usage: tb-hydrate [--help] [--version]\n"
    "Download the encrypted weights of TB_ASSET_ID to TB_TARGET_DIR, resumable, and verify them.\n"
    "\n"
    "Configuration comes from the TB_* environment (see trustbridge.env). URLs come as the credentials "
    "sas-url,\n"
    "manifest-url and manifest-sha256 in $CREDENTIALS_DIRECTORY.\n"
    "\n"
    "Exit codes: 0 complete and verified, 66 not found, 74 I/O, disk or memory, 75 try again (a restart "
    "fetches fresh\n"
    "URLs and resumes), 76 integrity, 77 denied, 78 configuration. See tb-hydrate(8).\n";

/* Blocked in every thread and read by the download loop, which saves its record first. */
static int stop_signals(sigset_t *ret_set)
{
    sigemptyset(ret_set);
    sigaddset(ret_set, SIGTERM);
    sigaddset(ret_set, SIGINT);
    if (sigprocmask(SIG_BLOCK, ret_set, NULL) < 0)
        return -errno;
    return signalfd(-1, ret_set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The signal is still pending: let it end the process, so that the parent sees a stop and not a failure. */
static int die_by_signal(const sigset_t *set)
{
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigprocmask(SIG_UNBLOCK, set, NULL);
    return TB_EXIT_TEMPFAIL;
}

int main(int argc, char **argv)
{
    _cleanup_config_ struct tb_config cfg = {0};
    _cleanup_close_ int signal_fd = -1;
    struct verdict v = {0};
    sigset_t set;
    int r;

    tb_secret_init();
    tb_config_main(argc, argv, "tb-hydrate", help, &cfg);
    signal(SIGPIPE, SIG_IGN);
    signal_fd = stop_signals(&set);
    if (signal_fd < 0) {
        tb_error("cannot prepare for signals: %s", strerror(errno));
        return TB_EXIT_IOERR;
    }
    r = hydrate_run(&cfg, &set, signal_fd, &v);
    if (r == VERDICT_STOPPED) {
        tb_info("%s", v.message);
        tb_notify_stopping();
        return die_by_signal(&set);
    }
    if (r != 0)
        tb_error("%s", v.message);
    return r;
}
