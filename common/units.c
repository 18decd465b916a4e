/* SPDX-License-Identifier: Apache-2.0 */
#include "common/units.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/macros.h"

#define DURATION_MAX_S (100.0 * 366 * 86400)
#define RFC3339_LAST_S 253402300799 /* 9999-12-31T23:59:59Z */

static uint64_t now_us(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * TB_USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t tb_now_boottime_us(void)
{
    return now_us(CLOCK_BOOTTIME);
}

uint64_t tb_now_monotonic_us(void)
{
    return now_us(CLOCK_MONOTONIC);
}

uint64_t tb_now_realtime_us(void)
{
    return now_us(CLOCK_REALTIME);
}

void tb_sleep_ms(uint64_t ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&t, &t) < 0 && errno == EINTR)
        ;
}

static double unit_seconds(const char **s)
{
    static const struct {
        const char *name;
        double seconds;
    } units[] = {{"ms", 1e-3}, {"us", 1e-6}, {"h", 3600}, {"m", 60}, {"s", 1}, {"d", 86400}};

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        size_t n = strlen(units[i].name);

        if (strncmp(*s, units[i].name, n) == 0) {
            *s += n;
            return units[i].seconds;
        }
    }
    return -1;
}

int tb_duration_parse(const char *s, uint64_t *ret_us)
{
    double total = 0;

    if (strcmp(s, "0") == 0) {
        *ret_us = 0;
        return 0;
    }
    if (*s == '\0')
        return -EINVAL;
    while (*s) {
        double value = 0, scale = 1, unit;
        bool digits = false;

        for (; isdigit((unsigned char)*s); s++, digits = true)
            value = value * 10 + (*s - '0');
        if (*s == '.')
            for (s++; isdigit((unsigned char)*s); s++, digits = true)
                value += (*s - '0') * (scale /= 10);
        unit = digits ? unit_seconds(&s) : -1;
        if (unit < 0)
            return -EINVAL;
        total += value * unit;
        if (!(total <= DURATION_MAX_S))
            return -ERANGE;
    }
    *ret_us = (uint64_t)llround(total * 1e6);
    return 0;
}

/* Exactly n digits at *s; advances. -1 when there are not. */
static int units_digits(const char **s, int n)
{
    int v = 0;

    for (int i = 0; i < n; i++, (*s)++) {
        if (!isdigit((unsigned char)**s))
            return -1;
        v = v * 10 + (**s - '0');
    }
    return v;
}

static int units_expect(const char **s, const char *set)
{
    if (**s == '\0' || !strchr(set, **s))
        return -1;
    (*s)++;
    return 0;
}

/* Seconds east of UTC of "Z" or "+hh:mm". */
static int zone_parse(const char **s, long *ret)
{
    int sign, h, m;

    if (units_expect(s, "Zz") == 0) {
        *ret = 0;
        return 0;
    }
    if (**s != '+' && **s != '-')
        return -EINVAL;
    sign = *(*s)++ == '-' ? -1 : 1;
    h = units_digits(s, 2);
    if (h < 0 || h > 23 || units_expect(s, ":") < 0)
        return -EINVAL;
    m = units_digits(s, 2);
    if (m < 0 || m > 59)
        return -EINVAL;
    *ret = sign * (h * 3600L + m * 60L);
    return 0;
}

/* The date of a day counted from 1970-01-01. Years begin in March here, so that a leap day is the last of
 * its year. gmtime_r() would take a lock for the time zone. */
static void units_date(uint64_t day, unsigned *year, unsigned *month, unsigned *ret_day)
{
    uint64_t d = day + 719468, era = d / 146097; /* 400 years each, from 0000-03-01 */
    unsigned in_era = (unsigned)(d % 146097);
    unsigned y = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
    unsigned in_year = in_era - (365 * y + y / 4 - y / 100), m = (5 * in_year + 2) / 153;

    *ret_day = in_year - (153 * m + 2) / 5 + 1;
    *month = m < 10 ? m + 3 : m - 9;
    *year = (unsigned)era * 400 + y + (*month <= 2);
}

/* month: 0 to 11. */
static int units_month_days(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

    return days[month] + (month == 1 && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
}

/* Whether t is the midnight behind the last second of June or December, UTC: where leap seconds are. */
static bool units_ends_half_year(time_t t)
{
    unsigned year, month, day;

    units_date((uint64_t)t / 86400, &year, &month, &day);
    return t % 86400 == 0 && day == 1 && (month == 1 || month == 7);
}

int tb_rfc3339_parse(const char *s, uint64_t *ret_us)
{
    struct tm tm = {0};
    uint64_t frac = 0, weight = 100000;
    long zone;
    time_t t;
    bool leap;

    tm.tm_year = units_digits(&s, 4) - 1900;
    if (units_expect(&s, "-") < 0)
        return -EINVAL;
    tm.tm_mon = units_digits(&s, 2) - 1;
    if (units_expect(&s, "-") < 0)
        return -EINVAL;
    tm.tm_mday = units_digits(&s, 2);
    if (units_expect(&s, "Tt") < 0)
        return -EINVAL;
    tm.tm_hour = units_digits(&s, 2);
    if (units_expect(&s, ":") < 0)
        return -EINVAL;
    tm.tm_min = units_digits(&s, 2);
    if (units_expect(&s, ":") < 0)
        return -EINVAL;
    tm.tm_sec = units_digits(&s, 2);
    if (*s == '.') {
        if (!isdigit((unsigned char)*++s))
            return -EINVAL;
        for (; isdigit((unsigned char)*s); s++, weight /= 10)
            frac += (uint64_t)(*s - '0') * weight;
    }
    if (tm.tm_year < 70 || tm.tm_mon < 0 || tm.tm_mon > 11 || tm.tm_mday < 1 ||
        tm.tm_mday > units_month_days(tm.tm_year + 1900, tm.tm_mon) || tm.tm_hour < 0 || tm.tm_hour > 23 ||
        tm.tm_min < 0 || tm.tm_min > 59 || tm.tm_sec < 0 || tm.tm_sec > 60)
        return -EINVAL;
    if (zone_parse(&s, &zone) < 0 || *s != '\0')
        return -EINVAL;
    leap = tm.tm_sec == 60;
    /* a leap second or a zone may lead out of the years that have four digits */
    t = timegm(&tm) - zone;
    if (t < 0 || t > RFC3339_LAST_S || (leap && !units_ends_half_year(t)))
        return -EINVAL;
    *ret_us = (uint64_t)t * TB_USEC_PER_SEC + frac;
    return 0;
}

static char *units_put_digits(char *out, unsigned v, int n)
{
    for (int i = n - 1; i >= 0; i--, v /= 10)
        out[i] = (char)('0' + v % 10);
    return out + n;
}

char *tb_rfc3339_format(uint64_t realtime_us, int ms, char out[static TB_RFC3339_MAX])
{
    uint64_t t = realtime_us / TB_USEC_PER_SEC;
    unsigned year, month, day, second = (unsigned)(t % 86400);
    char *p = out;

    units_date(t / 86400, &year, &month, &day);
    p = units_put_digits(p, year, 4);
    *p++ = '-';
    p = units_put_digits(p, month, 2);
    *p++ = '-';
    p = units_put_digits(p, day, 2);
    *p++ = 'T';
    p = units_put_digits(p, second / 3600, 2);
    *p++ = ':';
    p = units_put_digits(p, second / 60 % 60, 2);
    *p++ = ':';
    p = units_put_digits(p, second % 60, 2);
    if (ms) {
        *p++ = '.';
        p = units_put_digits(p, (unsigned)(realtime_us / 1000 % 1000), 3);
    }
    memcpy(p, "Z", 2);
    return out;
}

const char *tb_span_format(uint64_t us, char out[static TB_SPAN_MAX])
{
    unsigned long long s = us / TB_USEC_PER_SEC;

    if (s >= 86400)
        snprintf(out, TB_SPAN_MAX, "%llu d %llu h", s / 86400, s / 3600 % 24);
    else if (s >= 3600)
        snprintf(out, TB_SPAN_MAX, "%llu h %llu min", s / 3600, s / 60 % 60);
    else if (s >= 60)
        snprintf(out, TB_SPAN_MAX, "%llu min", s / 60);
    else
        snprintf(out, TB_SPAN_MAX, "%llu s", s);
    return out;
}

char *tb_bytes_format(uint64_t n, char *out, size_t out_len)
{
    static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)n;
    size_t i = 0;

    for (; v >= 1024 && i < 6; i++)
        v /= 1024;
    if (i == 0)
        snprintf(out, out_len, "%llu B", (unsigned long long)n);
    else
        snprintf(out, out_len, "%.1f %s", v, unit[i]);
    return out;
}

int tb_uint_parse(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    assert(min <= max);
    if (*s == '\0')
        return -EINVAL;
    for (; *s; s++) {
        unsigned d = (unsigned)(*s - '0');

        if (d > 9)
            return -EINVAL;
        if (v > (UINT64_MAX - d) / 10)
            return -ERANGE;
        v = v * 10 + d;
    }
    if (v < min || v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

int tb_size_parse(const char *s, uint64_t *ret)
{
    static const char units[] = "KMGT";
    char number[24];
    size_t n = strspn(s, "0123456789");
    unsigned shift = 0;
    uint64_t v;
    int r;

    if (n == 0 || n >= sizeof(number))
        return -EINVAL;
    memcpy(number, s, n);
    number[n] = '\0';
    r = tb_uint_parse(number, 0, UINT64_MAX, &v);
    if (r < 0)
        return r;
    s += n;
    if (*s) {
        const char *u = strchr(units, toupper((unsigned char)*s));

        if (!u)
            return -EINVAL;
        shift = 10 * (unsigned)(u - units + 1);
        s++;
        if (*s && strcasecmp(s, "iB") != 0)
            return -EINVAL;
    }
    if (v > UINT64_MAX >> shift)
        return -ERANGE;
    *ret = v << shift;
    return 0;
}

char *tb_http_date_format(uint64_t realtime_us, char out[static TB_HTTP_DATE_MAX])
{
    static const char day_name[7][4] = {"Thu", "Fri", "Sat", "Sun",
                                        "Mon", "Tue", "Wed"}; /* 1970 began on one */
    static const char month_name[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                           "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    uint64_t t = realtime_us / TB_USEC_PER_SEC;
    unsigned year, month, day, second = (unsigned)(t % 86400);

    units_date(t / 86400, &year, &month, &day);
    snprintf(out, TB_HTTP_DATE_MAX, "%s, %02u %s %u %02u:%02u:%02u GMT", day_name[t / 86400 % 7], day % 100,
             month_name[(month - 1) % 12], year % 10000, second / 3600, second / 60 % 60, second % 60);
    return out;
}

int tb_bool_parse(const char *s, bool *ret)
{
    static const char *const yes[] = {"true", "1", "yes", "on"}, *const no[] = {"false", "0", "no", "off"};

    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        if (strcasecmp(s, yes[i]) == 0) {
            *ret = true;
            return 0;
        }
        if (strcasecmp(s, no[i]) == 0) {
            *ret = false;
            return 0;
        }
    }
    return -EINVAL;
}
