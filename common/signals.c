/* SPDX-License-Identifier: Apache-2.0 */
#include "common/signals.h"

#include <assert.h>
#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t signals_held;

int tb_signals_open(const int *extra)
{
    int r;

    sigemptyset(&signals_held);
    sigaddset(&signals_held, SIGTERM);
    sigaddset(&signals_held, SIGINT);
    for (; extra && *extra; extra++)
        sigaddset(&signals_held, *extra);
    r = pthread_sigmask(SIG_BLOCK, &signals_held, NULL);
    if (r != 0)
        return -r;
    (void)signal(SIGPIPE, SIG_IGN);
    r = signalfd(-1, &signals_held, SFD_CLOEXEC | SFD_NONBLOCK);
    return r < 0 ? -errno : r;
}

void tb_signals_hold(bool hold)
{
    (void)pthread_sigmask(hold ? SIG_BLOCK : SIG_UNBLOCK, &signals_held, NULL);
}

int tb_signals_next(int fd)
{
    struct signalfd_siginfo info;

    assert(fd >= 0);
    return read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info) ? (int)info.ssi_signo : 0;
}

void tb_signals_die(int signo)
{
    sigset_t set;

    (void)signal(signo, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, signo);
    (void)raise(signo);
    (void)pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
