/* SPDX-License-Identifier: Apache-2.0 */
#include "load/runtime.h"

#include <linux/close_range.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

#include "load/cmdline.h"
#include "common/io.h"
#include "load/restrict.h"

static bool runtime_executable(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

bool tb_runtime_found(const char *program)
{
    const char *path = getenv("PATH");

    if (strchr(program, '/'))
        return runtime_executable(program);
    for (const char *p = path ? path : "/usr/bin:/bin"; *p;
         p += strcspn(p, ":") + (p[strcspn(p, ":")] == ':')) {
        _cleanup_free_ char *full = tb_strf("%.*s/%s", (int)strcspn(p, ":"), p, program);

        if (full && runtime_executable(full))
            return true;
    }
    return false;
}

static int clean_environment(void)
{
    static const char *const ours[] = {"CREDENTIALS_DIRECTORY", "LISTEN_FDS",     "LISTEN_PID",
                                       "LISTEN_FDNAMES",        "LISTEN_PIDFDID", "NOTIFY_SOCKET",
                                       "WATCHDOG_PID",          "WATCHDOG_USEC"};

    for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
        if (unsetenv(ours[i]) < 0)
            return -errno;
    /* Scratch files of the runtime may hold plaintext: keep them off the disk unless told otherwise. */
    return setenv("TMPDIR", "/dev/shm", 0) < 0 ? -errno : 0;
}

static int restrict_process(const struct tb_load *l)
{
    /* 1, not 0: the kernel ignores a limit of 0 when cores go to a pipe, and honours 1. */
    struct rlimit no_core = {.rlim_cur = 1, .rlim_max = 1};
    sigset_t none;
    int r = l->config->runtime_engine ? 0 : tb_restrict_privileges(l->own_users);

    if (r < 0)
        return r;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || setrlimit(RLIMIT_CORE, &no_core) < 0 ||
        setrlimit(RLIMIT_NOFILE, &l->nofile) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    if (sigprocmask(SIG_SETMASK, &none, NULL) < 0)
        return -errno;
    if (close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        return -errno;
    return l->config->runtime_engine ? 0 : tb_restrict_calls();
}

int tb_runtime_exec(struct tb_load *l, const char *model)
{
    int r = tb_cmdline_substitute(l->command, model);

    if (r == 0)
        r = clean_environment();
    if (r == 0)
        r = restrict_process(l);
    if (r < 0)
        return tb_outcome_set(&l->outcome, TB_EXIT_IOERR, "cannot prepare to run %s: %s", l->command[0],
                              strerror(-r));
    execvp(l->command[0], l->command);
    return tb_outcome_set(&l->outcome, TB_EXIT_CONFIG, "TB_RUNTIME_EXEC: cannot run %s: %s", l->command[0],
                          strerror(errno));
}
