/* SPDX-License-Identifier: Apache-2.0 */
/* The tests' root shell in a machine. From a virtio port it reads lines `TOKEN SECONDS LENGTH`, each followed
 * by so many bytes of a shell command, and answers each with `TOKEN EXIT LENGTH` and so many bytes of output,
 * of both streams. SECONDS end the command, as timeout(1) does. Commands and output stay in memory
 * ($RUNTIME_DIRECTORY), so that a test can look at secrets without putting them on the disk that it searches
 * later. Not a script: each program that one starts takes 60 ms in an emulated machine, and tests ask all the
 * time. */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT "/dev/virtio-ports/vm.agent"
#define AGENT_GRACE_S 5        /* between SIGTERM and SIGKILL */
#define AGENT_MAX (256u << 20) /* bytes of a command */
#define AGENT_TIMED_OUT 124    /* as timeout(1) says it */

static bool write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t did = write(fd, p, n);

        if (did < 0 && errno != EINTR)
            return false;
        if (did > 0) {
            p += did;
            n -= (size_t)did;
        }
    }
    return true;
}

static void become_command(int out)
{
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (setpgid(0, 0) == 0 && dup2(null, 0) == 0 && dup2(out, 1) == 1 && dup2(out, 2) == 2)
        execl("/bin/sh", "sh", "./cmd", (char *)NULL);
    _exit(127);
}

/* Whether the process of `pidfd` ends within so many seconds. */
static bool ends_within(int pidfd, int seconds)
{
    return poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, seconds * 1000) > 0;
}

/* Runs ./cmd with its output in `out`; returns its exit status as a shell has it. */
static int run(int out, int seconds)
{
    pid_t pid = fork();
    int pidfd, status = 0;
    bool late;

    if (pid == 0)
        become_command(out);
    if (pid < 0 || (pidfd = pidfd_open(pid, 0)) < 0)
        return 126;
    late = !ends_within(pidfd, seconds);
    if (late) {
        (void)kill(-pid, SIGTERM);
        if (!ends_within(pidfd, AGENT_GRACE_S))
            (void)kill(-pid, SIGKILL);
    }
    (void)waitpid(pid, &status, 0);
    (void)close(pidfd);
    if (late)
        return AGENT_TIMED_OUT;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static bool answer(int port, const char *token, int rc, int out)
{
    struct stat st;
    char head[128];
    char *text = NULL;
    ssize_t n = 0;
    bool good;

    if (fstat(out, &st) < 0 || !(text = malloc((size_t)st.st_size + 1)))
        return false;
    n = pread(out, text, (size_t)st.st_size, 0);
    (void)snprintf(head, sizeof(head), "%s %d %zd\n", token, rc, n < 0 ? 0 : n);
    good = write_all(port, head, strlen(head)) && (n <= 0 || write_all(port, text, (size_t)n));
    free(text);
    return good;
}

/* One command. False: no more come. A line that is none is passed over: it is the rest of another. */
static bool serve(FILE *in, int port)
{
    char line[256], token[64];
    char *command;
    size_t n;
    int seconds, cmd, out;
    bool good = false;

    if (!fgets(line, sizeof(line), in))
        return false;
    if (sscanf(line, "%63s %d %zu", token, &seconds, &n) != 3 || n > AGENT_MAX)
        return true;
    if (!(command = malloc(n + 1)) || fread(command, 1, n, in) != n) {
        free(command);
        return false;
    }
    cmd = open("cmd", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    /* Its own: what goes on in the background writes into no other. */
    out = memfd_create("output", MFD_CLOEXEC);
    if (cmd >= 0 && out >= 0 && write_all(cmd, command, n))
        good = answer(port, token, run(out, seconds), out);
    (void)close(cmd);
    (void)close(out);
    free(command);
    return good;
}

int main(void)
{
    const char *dir = getenv("RUNTIME_DIRECTORY");
    int port = open(PORT, O_RDWR | O_CLOEXEC);
    FILE *in = port < 0 ? NULL : fdopen(port, "r");

    if (!in || !dir || chdir(dir) < 0) {
        perror(PORT);
        return 1;
    }
    while (serve(in, port))
        ;
    return 0;
}
