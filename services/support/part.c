/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "common/io.h"
#include "common/units.h"
#include "support/support.h"

#define REAP_MS 500

/* Programs of ours are beside this one, or where packages put them. */
static void part_set_environment(const struct support_places *p)
{
    _cleanup_free_ char *path = NULL;
    static const char *const keep[] = {"TB_RUN_DIR", "TB_STATE_DIR", "TB_HEALTH_ADDR", "ASAN_OPTIONS"};
    char *kept[ARRAY_SIZE(keep)], self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

    self[n > 0 ? n : 0] = '\0';
    if (strrchr(self, '/'))
        *strrchr(self, '/') = '\0';
    path = tb_strf("PATH=%s:/usr/sbin:/usr/bin:/sbin:/bin", self);
    for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
        kept[i] = getenv(keep[i]) ? strdup(getenv(keep[i])) : NULL;
    clearenv();
    for (size_t i = 0; i < ARRAY_SIZE(keep); i++)
        if (kept[i])
            setenv(keep[i], kept[i], 1);
    if (path)
        putenv(TAKE_PTR(path));
    setenv("LANG", "C.UTF-8", 1);
    setenv("NO_COLOR", "1", 1);
    setenv("SYSTEMD_COLORS", "0", 1);
    setenv("SYSTEMD_PAGER", "", 1);
}

static void part_child(const struct support_part *part, const struct support_places *p, int out)
{
    int null = open("/dev/null", O_RDONLY);

    setpgid(0, 0);
    if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 ||
        dup2(out, STDERR_FILENO) < 0)
        _exit(127);
    signal(SIGPIPE, SIG_DFL);
    part_set_environment(p);
    /* What a line's end cuts is not known as a secret. */
    if (part->argv[0] && strncmp(part->argv[0], "tb-", 3) == 0)
        setenv("COLUMNS", "100000", 1);
    if (part->make) {
        part->make(p);
        _exit(fflush(stdout) == 0 ? 0 : 1);
    }
    execvp(part->argv[0], (char *const *)part->argv);
    _exit(errno == ENOENT ? 126 : 127);
}

/* Reads until the end, the time or the size is over: *ret_note says which. */
static int part_read(int fd, uint64_t until_ms, struct tb_buf *out, const char **ret_note)
{
    size_t start = out->len;

    for (;;) {
        uint64_t now = tb_now_boottime_us() / 1000;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        ssize_t n;

        if (now >= until_ms || poll(&p, 1, (int)(until_ms - now)) == 0) {
            *ret_note = "it took too long";
            return 0;
        }
        if (tb_buf_reserve(out, 65536) < 0)
            return tb_buf_error(out);
        n = read(fd, out->data + out->len, 65536);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return 0;
        out->len += n > 0 ? (size_t)n : 0;
        if (out->len - start > SUPPORT_PART_MAX) {
            out->len = start + SUPPORT_PART_MAX;
            *ret_note = "it was too large, and is cut";
            return 0;
        }
    }
}

/* One that hangs in the kernel cannot be killed, and is not waited for. */
static int part_reap(pid_t pid, bool kill_it)
{
    int status = -1;

    if (kill_it)
        (void)kill(-pid, SIGKILL);
    for (unsigned ms = 0; ms < REAP_MS; ms += 10) {
        pid_t r = waitpid(pid, &status, WNOHANG);

        if (r == pid)
            return status;
        if (r < 0)
            return -1;
        tb_sleep_ms(10);
    }
    (void)kill(-pid, SIGKILL);
    return -1;
}

int support_part_run(const struct support_part *part, const struct support_places *p, unsigned ms,
                     struct tb_buf *out, char **ret_note)
{
    _cleanup_close_ int from = -1, to = -1;
    const char *note = NULL;
    int pipes[2], status, r;
    pid_t pid;

    *ret_note = NULL;
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return -errno;
    from = pipes[0];
    to = pipes[1];
    fflush(NULL);
    pid = fork();
    if (pid < 0)
        return -errno;
    if (pid == 0)
        part_child(part, p, to);
    to = tb_close(to);
    r = part_read(from, tb_now_boottime_us() / 1000 + ms, out, &note);
    status = part_reap(pid, note != NULL || r < 0);
    if (r < 0)
        return r;
    if (note)
        *ret_note = strdup(note);
    else if (WIFSIGNALED(status))
        *ret_note = tb_strf("it was ended by signal %d", WTERMSIG(status));
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 126 && part->argv[0])
        *ret_note = tb_strf("%s is not installed", part->argv[0]);
    else if (WIFEXITED(status) && WEXITSTATUS(status) != 0)
        *ret_note = tb_strf("it ended with status %d", WEXITSTATUS(status));
    return 0;
}
