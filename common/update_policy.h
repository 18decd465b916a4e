/* SPDX-License-Identifier: Apache-2.0 */
/* TB_UPDATE: when a version that is ready is switched to. Pure; times of a window are the machine's local
 * time, and what a change of the clocks leaves out of a day is left out of the window, too. */
#ifndef TB_UPDATE_POLICY_H
#define TB_UPDATE_POLICY_H

#include <stdbool.h>
#include <time.h>

enum tb_update_mode {
    TB_UPDATE_MANUAL,  /* when an operator says so (tb-update switch) */
    TB_UPDATE_RESTART, /* when the runtime next starts, for whatever reason */
    TB_UPDATE_WINDOW,  /* within a window of time */
};

struct tb_update_policy {
    enum tb_update_mode mode;
    unsigned days;     /* on which the window begins: 1 << tm_wday */
    unsigned from, to; /* minutes since midnight; to <= from: over midnight */
};

/* manual, restart, or window [DAYS] HH:MM-HH:MM with DAYS as Mon..Fri or Sat,Sun. -EINVAL. */
int tb_update_policy_parse(const char *s, struct tb_update_policy *ret);
#define TB_UPDATE_POLICY_WORDS                                                                               \
    "must be manual, restart or window [DAYS] HH:MM-HH:MM, with DAYS as Mon..Fri or Sat,Sun"

/* Is it open at this time? */
bool tb_update_window_open(const struct tb_update_policy *p, time_t now);
/* When it is next open, from now on. 0: not within 15 days. */
time_t tb_update_window_next(const struct tb_update_policy *p, time_t now);

#endif
