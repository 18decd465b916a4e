/* SPDX-License-Identifier: Apache-2.0 */
/* Conditions that are waited on with a limit: by the monotonic clock. By the clock of day, which is what
 * pthread_cond_init() gives, a wait of a moment lasts an hour when the clock is set back by one, as at the
 * first contact with a time server. */
#ifndef TB_COND_H
#define TB_COND_H

#include <pthread.h>
#include <time.h>

static inline void tb_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t monotonic;

    (void)pthread_condattr_init(&monotonic);
    (void)pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    (void)pthread_cond_init(c, &monotonic);
    (void)pthread_condattr_destroy(&monotonic);
}

/* For pthread_cond_timedwait() on one of them. */
static inline struct timespec tb_cond_until(unsigned timeout_ms)
{
    struct timespec until;

    (void)clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    return until;
}

#endif
