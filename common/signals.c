/* SPDX-License-Identifier: Apache-2.0 */
#include "common/signals.h"

#include <assert.h>
#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

int tb_signals_open(const int *extra)
{
    sigset_t set;
    int r;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    for (; extra && *extra; extra++)
        sigaddset(&set, *extra);
    r = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (r != 0)
        return -r;
    (void)signal(SIGPIPE, SIG_IGN);
    r = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return r < 0 ? -errno : r;
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
