/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/tool.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "common/io.h"
#include "provider/cli/interrupt.h"
#include "provider/cli/output.h"

#define OUTPUT_MAX (4 * 1024 * 1024)
#define SHOWN_MAX (256 * 1024) /* of a quiet program that failed: its end */

extern char **environ;

void tool_add(struct tool *t, const char *fmt, ...)
{
    va_list ap;
    char *s = NULL;

    if (t->n + 1 >= TOOL_WORDS_MAX) {
        t->r = -E2BIG;
        return;
    }
    va_start(ap, fmt);
    if (vasprintf(&s, fmt, ap) < 0)
        t->r = -ENOMEM;
    else
        t->v[t->n++] = s;
    va_end(ap);
}

void tool_clear(struct tool *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->v[i]);
    *t = (struct tool){0};
}

/* Signals as a program expects them at its start. in, out and err are its stdin, stdout and stderr; -1, not
 * for out: ours. */
static int tool_spawn(const struct tool *t, int in, int out, int err, pid_t *ret)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    if (posix_spawn_file_actions_init(&actions) != 0)
        return -ENOMEM;
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return -ENOMEM;
    }
    posix_spawnattr_setsigmask(&attr, &none);
    posix_spawnattr_setsigdefault(&attr, &all);
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    r = posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    if (r == 0 && in >= 0)
        r = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    if (r == 0 && err >= 0)
        r = posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    if (r == 0)
        r = posix_spawnp(ret, t->v[0], &actions, &attr, t->v, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attr);
    return -r;
}

static char *tool_read_output(int fd)
{
    char *buf = malloc(OUTPUT_MAX + 1), drop[4096];
    ssize_t n = buf ? tb_read_full(fd, buf, OUTPUT_MAX) : -1;

    while (n >= 0 && tb_read_full(fd, drop, sizeof(drop)) > 0)
        ;
    if (buf)
        buf[n < 0 ? 0 : n] = '\0';
    return buf;
}

/* The end of what a quiet program said, as if it had not been quiet. */
static void tool_show(int fd)
{
    struct stat st;
    char buf[4096];
    off_t at;
    ssize_t n;

    if (fstat(fd, &st) < 0)
        return;
    at = st.st_size > SHOWN_MAX ? st.st_size - SHOWN_MAX : 0;
    while ((n = pread(fd, buf, sizeof(buf), at)) > 0 && tb_write_full(STDERR_FILENO, buf, (size_t)n) == 0)
        at += n;
}

/* The terminal sends Ctrl-C to both of us; what kill(1) sends to us alone is passed on. */
static int tool_wait_for(pid_t pid, bool *ret_interrupted)
{
    sigset_t set;
    int status;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    *ret_interrupted = false;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        const struct timespec tick = {.tv_nsec = 50 * 1000 * 1000};
        siginfo_t info;

        if (sigtimedwait(&set, &info, &tick) < 0)
            continue;
        *ret_interrupted = true;
        if (info.si_code == SI_USER)
            (void)kill(pid, info.si_signo);
    }
    return status;
}

/* An interrupt that came while signals were blocked and no program ran. */
static bool tool_was_interrupted(void)
{
    const struct timespec now = {0};
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    return sigtimedwait(&set, NULL, &now) > 0;
}

static int tool_not_there(const char *program, const char *package)
{
    char remedy[96];

    snprintf(remedy, sizeof(remedy), "apt-get install %s", package);
    return tbpkg_fail(program, "is not installed", remedy);
}

int tool_find(const char *program, const char *package)
{
    const char *path = getenv("PATH");

    for (const char *p = path && *path ? path : "/usr/bin:/bin"; *p;) {
        size_t n = strcspn(p, ":");
        _cleanup_free_ char *file = tb_strf("%.*s/%s", (int)n, p, program);

        if (file && access(file, X_OK) == 0)
            return CLI_OK;
        p += n;
        p += *p == ':';
    }
    return tool_not_there(program, package);
}

/* Says how it ended. r: of the spawn. */
static int tool_report(const struct tool *t, const char *package, int r, int status, bool interrupted)
{
    if (interrupted) {
        tbpkg_fail("interrupted", t->v[0], "run the same command again");
        return CLI_INTERRUPTED;
    }
    if (r == -ENOENT)
        return tool_not_there(t->v[0], package);
    if (r < 0)
        return tbpkg_fail_errno(t->v[0], r);
    if (WIFSIGNALED(status))
        return tbpkg_failf(t->v[0], "%s was killed by signal %d", t->n > 1 ? t->v[1] : "it",
                           WTERMSIG(status));
    if (WEXITSTATUS(status) != 0)
        return tbpkg_failf(t->v[0], "%s ended with exit code %d; see its output above",
                           t->n > 1 ? t->v[1] : "it", WEXITSTATUS(status));
    return CLI_OK;
}

int tool_run(const struct tool *t, const char *package, char **ret_out)
{
    _cleanup_close_ int in = -1, out = -1, kept = -1;
    int fds[2], status = 0, r;
    bool interrupted = false;
    pid_t pid;

    assert(t->n > 0 || t->r < 0);
    if (t->r < 0)
        return tbpkg_fail_errno(t->n ? t->v[0] : package, t->r);
    if (ret_out && pipe2(fds, O_CLOEXEC) < 0)
        return tbpkg_fail_errno(t->v[0], -errno);
    if (ret_out) {
        in = fds[0];
        out = fds[1];
    }
    if (t->quiet && (kept = memfd_create("output", MFD_CLOEXEC)) < 0)
        return tbpkg_fail_errno(t->v[0], -errno);
    cli_signals_block();
    if (tool_was_interrupted()) {
        cli_signals_unblock();
        return tool_report(t, package, 0, 0, true);
    }
    r = tool_spawn(t, -1, ret_out ? out : kept >= 0 ? kept : STDERR_FILENO, kept, &pid);
    out = tb_close(out);
    if (r == 0 && ret_out)
        *ret_out = tool_read_output(in);
    if (r == 0)
        status = tool_wait_for(pid, &interrupted);
    cli_signals_unblock();
    if (kept >= 0 && (r < 0 || status != 0))
        tool_show(kept);
    return tool_report(t, package, r, status, interrupted);
}

int tool_run_filter(const struct tool *t, const char *package, const void *in, size_t in_len, int out_fd)
{
    _cleanup_close_ int read_end = -1, write_end = -1;
    int fds[2], status = 0, r;
    bool interrupted = false;
    pid_t pid;

    assert(t->n > 0 && in_len <= PIPE_BUF);
    if (t->r < 0)
        return tbpkg_fail_errno(t->v[0], t->r);
    if (pipe2(fds, O_CLOEXEC) < 0)
        return tbpkg_fail_errno(t->v[0], -errno);
    read_end = fds[0];
    write_end = fds[1];
    r = tb_write_full(write_end, in, in_len); /* fits: nothing waits */
    if (r < 0)
        return tbpkg_fail_errno(t->v[0], r);
    write_end = tb_close(write_end);
    cli_signals_block();
    r = tool_spawn(t, read_end, out_fd, -1, &pid);
    if (r == 0)
        status = tool_wait_for(pid, &interrupted);
    cli_signals_unblock();
    return tool_report(t, package, r, status, interrupted);
}

char *tool_mkdtemp(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path = tb_strf("%s/tbpkg-XXXXXX", tmp && *tmp ? tmp : "/tmp");

    if (!path || !mkdtemp(path)) {
        tbpkg_fail_errno(path ? path : "temporary directory", path ? -errno : -ENOMEM);
        free(path);
        return NULL;
    }
    return path;
}

static int tool_remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)remove(path);
    return 0;
}

void tool_rmdir(char **path)
{
    if (*path)
        (void)nftw(*path, tool_remove_one, 16, FTW_DEPTH | FTW_PHYS);
    tb_freep(path);
}
