/* SPDX-License-Identifier: Apache-2.0 */
#include "provider/cli/interrupt.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "provider/cli/output.h"

struct cli_temp {
    struct cli_temp *next;
    char path[];
};
/* Read by the signal handler: a node is complete before it is published. */
static struct cli_temp *volatile temps;
static const char *volatile interrupt_note;
static unsigned block_depth;

static void interrupt_write(const char *s)
{
    if (write(STDERR_FILENO, s, strlen(s)) < 0)
        return; /* nowhere to complain */
}

/* Only async-signal-safe calls: the interrupted thread may hold any lock. */
static void interrupt_on_signal(int sig)
{
    for (const struct cli_temp *t = temps; t; t = t->next)
        if (unlink(t->path) < 0 && errno == EISDIR)
            (void)rmdir(t->path);
    if (isatty(STDERR_FILENO))
        interrupt_write("\n");
    interrupt_write("tbpkg: interrupted\n");
    if (interrupt_note) {
        interrupt_write("tbpkg: ");
        interrupt_write(interrupt_note);
        interrupt_write("\n");
    }
    _exit(CLI_INTERRUPTED);
}

static void interrupt_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

void cli_signals_init(void)
{
    static const int sigs[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction sa = {.sa_handler = interrupt_on_signal}, old;

    interrupt_set(&sa.sa_mask);
    for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
        /* nohup and background jobs of a plain shell ignore these: leave it so */
        if (sigaction(sigs[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
            (void)sigaction(sigs[i], &sa, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error like a full disk */
}

void cli_signals_block(void)
{
    sigset_t set;

    interrupt_set(&set);
    if (block_depth++ == 0)
        (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void cli_signals_unblock(void)
{
    sigset_t set;

    interrupt_set(&set);
    assert(block_depth > 0);
    if (--block_depth == 0)
        (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

int cli_temp_add(const char *path)
{
    size_t n = strlen(path) + 1;
    struct cli_temp *t = malloc(sizeof(*t) + n);

    if (!t)
        return -ENOMEM;
    memcpy(t->path, path, n);
    t->next = temps;
    temps = t;
    return 0;
}

int cli_newfile_open(struct tb_newfile *f, const char *path, mode_t mode)
{
    mode_t mask = umask(0);
    int r;

    (void)umask(mask);
    cli_signals_block();
    r = tb_newfile_open(f, path, mode & ~mask);
    if (r == 0) {
        r = cli_temp_add(f->tmp_path);
        if (r < 0)
            tb_newfile_abort(f);
    }
    cli_signals_unblock();
    return r;
}

void cli_temp_forget_all(void)
{
    struct cli_temp *t = temps;

    temps = NULL;
    while (t) {
        struct cli_temp *next = t->next;

        free(t);
        t = next;
    }
}

void cli_interrupt_note(const char *line)
{
    interrupt_note = line;
}
