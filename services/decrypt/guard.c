/* SPDX-License-Identifier: Apache-2.0 */
#include "decrypt/guard.h"

#include <assert.h>
#include <poll.h>
#include <stdint.h>
#include <sys/eventfd.h>

#include "common/macros.h"
#include "common/notify.h"

/* Less than TimeoutStopSec= of the unit. */
#define PATIENCE_MS 500
#define LOOK_MS 1000

static bool guard_is_full(int fifo)
{
    struct pollfd p = {.fd = fifo, .events = POLLOUT};

    return fifo >= 0 && poll(&p, 1, 0) == 0;
}

static void *guard_thread(void *arg)
{
    struct tb_guard *g = arg;
    struct pollfd p[] = {
        {.fd = g->stop_fd, .events = POLLIN},
        {.fd = g->signal_fd, .events = POLLIN},
        {.fd = g->sock, .events = POLLRDHUP},
    };

    uint64_t us = tb_notify_watchdog_us();
    int timeout_ms = us > 0 ? (int)MIN(us / 1000 + 1, (uint64_t)LOOK_MS) : LOOK_MS, r;

    while ((r = poll(p, ARRAY_SIZE(p), timeout_ms)) <= 0) {
        if (r < 0 && errno != EINTR)
            return NULL;
        /* Else it is progress that feeds the watchdog. */
        if (r == 0 && (guard_is_full(g->fifo) || (g->waits && g->waits(g->ctx))))
            tb_notify_watchdog();
        if (r == 0 && g->look)
            g->look(g->ctx);
    }
    /* Told to stop, perhaps because of it: a client that dies takes the reader of the FIFO along. */
    if (p[1].revents || p[2].revents)
        atomic_store(&g->cause, p[1].revents ? TB_GUARD_SIGNAL : TB_GUARD_CLIENT);
    if (!p[0].revents && poll(p, 1, PATIENCE_MS) == 0)
        g->last_resort(g->ctx);
    return NULL;
}

int tb_guard_start(struct tb_guard *g)
{
    int r;

    assert(g->last_resort);
    atomic_init(&g->cause, TB_GUARD_NONE);
    g->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (g->stop_fd < 0)
        return -errno;
    r = pthread_create(&g->thread, NULL, guard_thread, g);
    if (r != 0)
        g->stop_fd = tb_close(g->stop_fd);
    return -r;
}

void tb_guard_stop(struct tb_guard *g)
{
    assert(g->stop_fd >= 0);
    (void)eventfd_write(g->stop_fd, 1);
    (void)pthread_join(g->thread, NULL);
    g->stop_fd = tb_close(g->stop_fd);
}

enum tb_guard_cause tb_guard_cancelled(struct tb_guard *g)
{
    return atomic_load(&g->cause);
}
