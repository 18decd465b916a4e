/* SPDX-License-Identifier: Apache-2.0 */
#include "load/child.h"

#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "common/log.h"
#include "load/runtime.h"

/* In a process group of its own, so that what it forks can be killed with it. */
int tb_child_start(struct tb_load *l, const char *model, pid_t *ret)
{
    pid_t parent = getpid(), pid = fork();

    if (pid < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot fork: %s", strerror(errno));
    if (pid == 0) {
        int status;

        (void)setpgid(0, 0);
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
        if (getppid() != parent)
            _exit(TB_EXIT_TEMPFAIL);
        status = tb_runtime_exec(l, model);
        tb_outcome_log(&l->outcome);
        _exit(status);
    }
    (void)setpgid(pid, pid);
    *ret = pid;
    tb_info("started %s, process %d", l->command[0], (int)pid);
    return 0;
}

void tb_child_kill(pid_t *pid)
{
    if (*pid == 0)
        return;
    (void)kill(-*pid, SIGKILL);
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR)
        ;
    *pid = 0;
}

static int child_judge(struct tb_load *l, int status, bool had_model)
{
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);

    if (l->stopped_by)
        return tb_outcome_set(&l->outcome, TB_EXIT_OK, "stopped by %s", strsignal(l->stopped_by));
    if (!had_model)
        return tb_outcome_set(&l->outcome, TB_EXIT_TEMPFAIL,
                              "%s ended with status %d before it had the whole model", l->command[0], code);
    if (code != 0)
        return tb_outcome_set(&l->outcome, (enum tb_exit)code, "%s ended with status %d", l->command[0],
                              code);
    return 0;
}

bool tb_child_ended(struct tb_load *l, pid_t *pid, bool had_model, int *ret)
{
    int status;

    if (*pid == 0 || waitpid(*pid, &status, WNOHANG) != *pid)
        return false;
    (void)kill(-*pid, SIGKILL); /* what it may have left behind */
    *pid = 0;
    *ret = child_judge(l, status, had_model);
    return true;
}
