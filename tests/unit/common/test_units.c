/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/time.h>
#include <cmocka.h>

#include "common/backoff.h"
#include "common/http.h"
#include "common/log.h"
#include "common/units.h"

static void test_durations(void **state)
{
    static const struct {
        const char *text;
        uint64_t us;
    } good[] = {
        {"60s", 60000000}, {"1h30m", 5400000000}, {"250ms", 250000},    {"1.5h", 5400000000},   {"0", 0},
        {"10us", 10},      {"24h", 86400000000},  {"7d", 604800000000}, {"1d12h", 129600000000}};
    static const char *const bad[] = {"", "60", "s", "1x", "-1s", "1 s", "1h 30m", ".s", "1e3s"};
    uint64_t us;

    for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
        assert_int_equal(tb_duration_parse(good[i].text, &us), 0);
        assert_int_equal(us, good[i].us);
    }
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(tb_duration_parse(bad[i], &us), -EINVAL);
    assert_int_equal(tb_duration_parse("99999999h", &us), -ERANGE);
}

static void test_sizes_are_parsed(void **state)
{
    static const struct {
        const char *s;
        int r;
        uint64_t v;
    } t[] = {
        {"0", 0, 0},
        {"4194304", 0, 4194304},
        {"4096K", 0, 4194304},
        {"4m", 0, 4194304},
        {"4MiB", 0, 4194304},
        {"1GIB", 0, 1 << 30},
        {"2T", 0, 2ULL << 40},
        {"", -EINVAL, 0},
        {"M", -EINVAL, 0},
        {"4X", -EINVAL, 0},
        {"4MB", -EINVAL, 0},
        {"4 M", -EINVAL, 0},
        {"-4", -EINVAL, 0},
        {"4MiBx", -EINVAL, 0},
        {"18446744073709551615", 0, UINT64_MAX},
        {"18446744073709551616", -ERANGE, 0},
        {"16777216T", -ERANGE, 0},
        {"99999999999999999999999999", -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
        uint64_t v = 0;

        assert_int_equal(tb_size_parse(t[i].s, &v), t[i].r);
        assert_int_equal(v, t[i].v);
    }
}

static void test_timestamps(void **state)
{
    static const char *const bad[] = {"",
                                      "2026-01-08",
                                      "2026-01-08T12:00:00",
                                      "2026-13-08T12:00:00Z",
                                      "2026-01-08T24:00:00Z",
                                      "2026-01-08T12:00:00Zx",
                                      "26-01-08T12:00:00Z",
                                      "2026-01-08T12:00:00.Z",
                                      "2026-01-08T12:00:00+1:00",
                                      "9999-12-31T23:59:60Z",
                                      "9999-12-31T23:59:59.5-00:01",
                                      "1970-01-01T00:00:00+00:01",
                                      "2026-02-29T00:00:00Z",
                                      "2100-02-29T00:00:00Z",
                                      "2026-04-31T00:00:00Z",
                                      "2026-01-00T00:00:00Z",
                                      "2026-01-08T12:60:00Z",
                                      "2026-01-08T12:00:60Z",
                                      "2026-01-08T12:00:61Z",
                                      "2026-03-31T23:59:60Z",
                                      "2026-06-30T23:58:60Z",
                                      "2026-06-30T23:59:60+01:00",
                                      "2026-01-08T12:00:00+24:00",
                                      "2026-01-08T12:00:00+01:60",
                                      "2026-01-08 12:00:00Z",
                                      "0000-01-01T00:00:00Z",
                                      "1969-12-31T23:59:59Z",
                                      " 2026-01-08T12:00:00Z",
                                      "+026-01-08T12:00:00Z",
                                      "2026-01-08T12:00:00,5Z"};
    char out[TB_RFC3339_MAX];
    uint64_t us, other;

    assert_int_equal(tb_rfc3339_parse("2026-01-08T12:00:00Z", &us), 0);
    assert_int_equal(us, 1767873600ULL * 1000000);
    assert_string_equal(tb_rfc3339_format(us, 0, out), "2026-01-08T12:00:00Z");
    assert_int_equal(tb_rfc3339_parse("2026-01-08T14:00:00.25+02:00", &other), 0);
    assert_int_equal(other, us + 250000);
    assert_string_equal(tb_rfc3339_format(other, 1, out), "2026-01-08T12:00:00.250Z");
    assert_int_equal(tb_rfc3339_parse("9999-12-31T23:59:59.999Z", &us), 0);
    assert_string_equal(tb_rfc3339_format(us, 1, out), "9999-12-31T23:59:59.999Z");
    assert_int_equal(tb_rfc3339_parse("9998-12-31T23:59:60Z", &us), 0);
    assert_string_equal(tb_rfc3339_format(us, 0, out), "9999-01-01T00:00:00Z");
    assert_int_equal(tb_rfc3339_parse("2027-01-01T00:59:60+01:00", &us), 0);
    assert_string_equal(tb_rfc3339_format(us, 0, out), "2027-01-01T00:00:00Z");
    assert_int_equal(tb_rfc3339_parse("2028-02-29t12:00:00z", &us), 0);
    assert_int_equal(tb_rfc3339_parse("2000-02-29T12:00:00-00:00", &us), 0);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tb_rfc3339_parse(bad[i], &us) != -EINVAL)
            fail_msg("%s is no time", bad[i]);
}

static void test_dates_are_those_of_the_calendar(void **state)
{
    for (time_t day = 0; day < 150000; day++) { /* until 2380 */
        time_t t = day * 86400 + day % 86400;
        char out[TB_RFC3339_MAX], want[TB_RFC3339_MAX], http[TB_HTTP_DATE_MAX], http_want[TB_HTTP_DATE_MAX];
        struct tm tm;

        gmtime_r(&t, &tm);
        strftime(want, sizeof(want), "%Y-%m-%dT%H:%M:%SZ", &tm);
        assert_string_equal(tb_rfc3339_format((uint64_t)t * TB_USEC_PER_SEC + 999999, 0, out), want);
        strftime(http_want, sizeof(http_want), "%a, %d %b %Y %H:%M:%S GMT", &tm);
        assert_string_equal(tb_http_date_format((uint64_t)t * TB_USEC_PER_SEC + 999999, http), http_want);
    }
}

static void test_sizes_and_numbers(void **state)
{
    char out[32];
    uint64_t n;

    assert_string_equal(tb_bytes_format(312, out, sizeof(out)), "312 B");
    assert_string_equal(tb_bytes_format(1610612736, out, sizeof(out)), "1.5 GiB");
    assert_int_equal(tb_uint_parse("18446744073709551615", 0, UINT64_MAX, &n), 0);
    assert_int_equal(tb_uint_parse("18446744073709551616", 0, UINT64_MAX, &n), -ERANGE);
    assert_int_equal(tb_uint_parse(" 1", 0, 9, &n), -EINVAL);
    assert_int_equal(tb_uint_parse("", 0, 9, &n), -EINVAL);
}

static void test_urls_are_logged_without_secrets(void **state)
{
    char out[100];

    assert_string_equal(tb_url_redact("https://a.b/c/d?sig=SECRET#x", out, sizeof(out)), "https://a.b/c/d");
    assert_string_equal(tb_url_redact("https://user:SECRET@a.b/c@d", out, sizeof(out)), "https://a.b/c@d");
    assert_string_equal(tb_url_redact("https://user:SE@CRET@a.b/c", out, sizeof(out)), "https://a.b/c");
    assert_string_equal(tb_url_redact("https://a.b?sig=SECRET@x/y", out, sizeof(out)), "https://a.b");
    assert_string_equal(tb_url_redact("nonsense?SECRET", out, sizeof(out)), "nonsense");
}

static void test_retry_after(void **state)
{
    assert_int_equal(tb_http_retry_after_ms("7"), 7000);
    assert_int_equal(tb_http_retry_after_ms(" 99999999999999999999"), 3600000);
    assert_int_equal(tb_http_retry_after_ms("100000"), 3600000);
    assert_int_equal(tb_http_retry_after_ms("soon"), -1);
    assert_int_equal(tb_http_retry_after_ms("Thu, 01 Jan 1970 00:00:01 GMT"), 0);
}

static void test_backoff_doubles_up_to_its_cap(void **state)
{
    struct tb_backoff b = {.base_ms = 2000, .cap_ms = 30000};
    uint64_t expect = 2000;

    for (int i = 0; i < 8; i++, expect = MIN(expect * 2, 30000)) {
        uint64_t ms = tb_backoff_next_ms(&b, -1);

        assert_in_range(ms, expect * 9 / 10, expect * 11 / 10);
    }
    assert_in_range(tb_backoff_next_ms(&b, 60000), 60000, 60000);
}

static void on_alarm(int signo)
{
}

static void test_sleep_lasts_through_signals(void **state)
{
    struct itimerval often = {.it_interval.tv_usec = 5000, .it_value.tv_usec = 5000}, never = {0};
    struct sigaction sa = {.sa_handler = on_alarm}, old;
    uint64_t since;

    assert_int_equal(sigaction(SIGALRM, &sa, &old), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
    since = tb_now_monotonic_us();
    tb_sleep_ms(60);
    assert_true(tb_now_monotonic_us() - since >= 60000);
    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
    assert_int_equal(sigaction(SIGALRM, &old, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_durations),
        cmocka_unit_test(test_sizes_are_parsed),
        cmocka_unit_test(test_timestamps),
        cmocka_unit_test(test_dates_are_those_of_the_calendar),
        cmocka_unit_test(test_sizes_and_numbers),
        cmocka_unit_test(test_urls_are_logged_without_secrets),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_backoff_doubles_up_to_its_cap),
        cmocka_unit_test(test_sleep_lasts_through_signals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
