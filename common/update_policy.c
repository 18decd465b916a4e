/* SPDX-License-Identifier: Apache-2.0 */
#include "common/update_policy.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define DAY_MINUTES (24 * 60)
#define ALL_DAYS 0x7fU
#define LOOK_AHEAD_MINUTES (15 * DAY_MINUTES) /* a weekly one whose hour the clock leaps over */

static const char *const day_names[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};

static int policy_take_day(const char **s)
{
    for (int i = 0; i < 7; i++)
        if (strncasecmp(*s, day_names[i], 3) == 0) {
            *s += 3;
            return i;
        }
    return -EINVAL;
}

/* "Mon", "Mon..Fri", "Sat,Sun" */
static int policy_take_days(const char **s, unsigned *ret)
{
    for (;;) {
        int first = policy_take_day(s), last = first;

        if (first >= 0 && strncmp(*s, "..", 2) == 0) {
            *s += 2;
            last = policy_take_day(s);
        }
        if (first < 0 || last < 0)
            return -EINVAL;
        for (int i = first;; i = (i + 1) % 7) {
            *ret |= 1U << i;
            if (i == last)
                break;
        }
        if (**s != ',')
            return 0;
        (*s)++;
    }
}

static int policy_take_time(const char **s, unsigned *ret)
{
    const char *p = *s;
    unsigned h, m;

    for (int i = 0; i < 5; i++)
        if (i == 2 ? p[i] != ':' : !isdigit((unsigned char)p[i]))
            return -EINVAL;
    h = (unsigned)(p[0] - '0') * 10 + (unsigned)(p[1] - '0');
    m = (unsigned)(p[3] - '0') * 10 + (unsigned)(p[4] - '0');
    if (m > 59 || h * 60 + m > DAY_MINUTES)
        return -EINVAL;
    *ret = h * 60 + m;
    *s += 5;
    return 0;
}

int tb_update_policy_parse(const char *s, struct tb_update_policy *ret)
{
    struct tb_update_policy p = {.mode = TB_UPDATE_WINDOW};

    if (strcmp(s, "manual") == 0 || strcmp(s, "restart") == 0) {
        *ret = (struct tb_update_policy){.mode = *s == 'm' ? TB_UPDATE_MANUAL : TB_UPDATE_RESTART};
        return 0;
    }
    if (strncmp(s, "window ", 7) != 0)
        return -EINVAL;
    s += 7 + strspn(s + 7, " ");
    if (isalpha((unsigned char)*s)) {
        if (policy_take_days(&s, &p.days) < 0 || *s != ' ')
            return -EINVAL;
        s += strspn(s, " ");
    } else {
        p.days = ALL_DAYS;
    }
    if (policy_take_time(&s, &p.from) < 0 || *s++ != '-' || policy_take_time(&s, &p.to) < 0 || *s ||
        p.from == p.to || p.from == DAY_MINUTES)
        return -EINVAL;
    *ret = p;
    return 0;
}

static bool policy_begins_on(const struct tb_update_policy *p, int wday)
{
    return p->days >> wday & 1;
}

bool tb_update_window_open(const struct tb_update_policy *p, time_t now)
{
    unsigned minute;
    struct tm tm;

    if (p->mode != TB_UPDATE_WINDOW || !localtime_r(&now, &tm))
        return false;
    minute = (unsigned)(tm.tm_hour * 60 + tm.tm_min);
    if (p->from < p->to)
        return minute >= p->from && minute < p->to && policy_begins_on(p, tm.tm_wday);
    return (minute >= p->from && policy_begins_on(p, tm.tm_wday)) ||
           (minute < p->to && policy_begins_on(p, (tm.tm_wday + 6) % 7));
}

/* Minute by minute, so that days of 23 and 25 hours need no thought. */
time_t tb_update_window_next(const struct tb_update_policy *p, time_t now)
{
    time_t at = now;

    if (tb_update_window_open(p, now))
        return now;
    at -= at % 60;
    for (int i = 1; i <= LOOK_AHEAD_MINUTES; i++)
        if (tb_update_window_open(p, at + (time_t)i * 60))
            return at + (time_t)i * 60;
    return 0;
}
