/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/domain_file.h"
#include "common/exit.h"
#include "common/io.h"
#include "common/json.h"
#include "common/log.h"
#include "update/update.h"

pid_t update_systemctl_begin(const char *verb, const char *unit)
{
    /* Nobody waits here for a model to be loaded. */
    bool wait = strcmp(unit, "tb-runtime.service") != 0;
    const char *const argv[] = {"systemctl",        "--quiet",          wait ? verb : "--no-block",
                                wait ? unit : verb, wait ? NULL : unit, NULL};
    sigset_t none;
    pid_t pid = fork();

    if (pid < 0)
        return -errno;
    if (pid > 0)
        return pid;
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    execvp(argv[0], (char **)argv);
    _exit(127);
}

int update_systemctl(const char *verb, const char *unit)
{
    pid_t pid = update_systemctl_begin(verb, unit);
    int status;

    if (pid < 0)
        return pid;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    status = WIFEXITED(status) ? WEXITSTATUS(status) : 128;
    if (status != 0)
        tb_warn("systemctl %s %s ended with %d", verb, unit, status);
    return status;
}

int update_wish(const char *run_dir, const char *action, uint64_t version)
{
    _cleanup_free_ char *dir = NULL;
    _cleanup_json_ cJSON *o = cJSON_CreateObject();
    int r = tb_runtime_dir(run_dir, "tb-update", &dir);

    if (!o || !cJSON_AddStringToObject(o, "action", action) ||
        (version && tb_json_add_uint(o, "version", version) < 0))
        return TB_EXIT_IOERR;
    if (r == 0)
        r = tb_state_write(dir, "wish.json", o, 0);
    if (r < 0) {
        tb_error("cannot write %s/tb-update/wish.json: %s", run_dir, strerror(-r));
        return TB_EXIT_IOERR;
    }
    r = update_systemctl("start", "tb-switch.service");
    return r == 0 ? 0 : TB_EXIT_IOERR;
}
