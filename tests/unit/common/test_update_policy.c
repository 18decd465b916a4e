/* SPDX-License-Identifier: Apache-2.0 */
#include "common/update_policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/macros.h"

/* Local time. */
static time_t at(int year, int month, int day, int hour, int minute)
{
    struct tm tm = {.tm_year = year - 1900,
                    .tm_mon = month - 1,
                    .tm_mday = day,
                    .tm_hour = hour,
                    .tm_min = minute,
                    .tm_isdst = -1};

    return mktime(&tm);
}

static struct tb_update_policy policy(const char *s)
{
    struct tb_update_policy p;

    if (tb_update_policy_parse(s, &p) < 0)
        fail_msg("%s", s);
    return p;
}

static void test_what_is_understood(void **state)
{
    struct tb_update_policy p = policy("window Sat,Mon..Wed 22:00-02:30");

    assert_int_equal(policy("manual").mode, TB_UPDATE_MANUAL);
    assert_int_equal(policy("restart").mode, TB_UPDATE_RESTART);
    assert_int_equal(p.mode, TB_UPDATE_WINDOW);
    assert_int_equal(p.days, 1U << 6 | 1U << 1 | 1U << 2 | 1U << 3);
    assert_int_equal(p.from, 22 * 60);
    assert_int_equal(p.to, 150);
    assert_int_equal(policy("window fri..mon 00:00-24:00").days, 1U << 5 | 1U << 6 | 1U << 0 | 1U << 1);
    assert_int_equal(policy("window  02:00-04:00").days, 0x7f);
}

static void test_what_is_not(void **state)
{
    static const char *const bad[] = {"",
                                      "Manual",
                                      "window",
                                      "window ",
                                      "window 2:00-4:00",
                                      "window 02:00",
                                      "window 02:00-",
                                      "window 02:00-04:00 ",
                                      "window 02:00-04:00x",
                                      "window 02:60-04:00",
                                      "window 24:00-02:00",
                                      "window 02:00-24:01",
                                      "window 02:00-02:00",
                                      "window 02.00-04.00",
                                      "window Mo 02:00-04:00",
                                      "window Mon, 02:00-04:00",
                                      "window Mon.. 02:00-04:00",
                                      "window Mon02:00-04:00",
                                      "window -02:00-04:00",
                                      "restart now"};
    struct tb_update_policy p;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (tb_update_policy_parse(bad[i], &p) == 0)
            fail_msg("%s", bad[i]);
}

/* 2026-11-26 is a Thursday. */
static void test_open_and_next(void **state)
{
    struct tb_update_policy p = policy("window 02:00-04:00"), over = policy("window Thu 22:00-02:00"),
                            manual = policy("manual");

    assert_false(tb_update_window_open(&p, at(2026, 11, 26, 1, 59)));
    assert_true(tb_update_window_open(&p, at(2026, 11, 26, 2, 0)));
    assert_true(tb_update_window_open(&p, at(2026, 11, 26, 3, 59)));
    assert_false(tb_update_window_open(&p, at(2026, 11, 26, 4, 0)));
    assert_int_equal(tb_update_window_next(&p, at(2026, 11, 26, 4, 0)), at(2026, 11, 27, 2, 0));
    assert_int_equal(tb_update_window_next(&p, at(2026, 11, 26, 3, 0)), at(2026, 11, 26, 3, 0));

    assert_true(tb_update_window_open(&over, at(2026, 11, 26, 23, 0)));
    assert_true(tb_update_window_open(&over, at(2026, 11, 27, 1, 59))); /* begun on Thursday */
    assert_false(tb_update_window_open(&over, at(2026, 11, 27, 2, 0)));
    assert_false(tb_update_window_open(&over, at(2026, 11, 26, 1, 0))); /* begun on Wednesday */
    assert_false(tb_update_window_open(&over, at(2026, 11, 27, 22, 0)));
    assert_int_equal(tb_update_window_next(&over, at(2026, 11, 27, 2, 0)), at(2026, 12, 3, 22, 0));

    assert_false(tb_update_window_open(&manual, at(2026, 11, 26, 2, 0)));
    assert_int_equal(tb_update_window_next(&manual, at(2026, 11, 26, 2, 0)), 0);
}

/* Berlin: 2026-03-29 has no hour from 02:00 on, 2026-10-25 has it twice. */
static void test_days_of_23_and_25_hours(void **state)
{
    struct tb_update_policy p = policy("window 02:00-03:00"), wide = policy("window 01:30-04:00"),
                            weekly = policy("window Sun 02:00-03:00");
    time_t first = at(2026, 10, 25, 1, 59) + 60;

    assert_int_equal(tb_update_window_next(&p, at(2026, 3, 28, 12, 0)), at(2026, 3, 30, 2, 0));
    assert_int_equal(tb_update_window_next(&weekly, at(2026, 3, 22, 3, 0)), at(2026, 4, 5, 2, 0));
    assert_true(tb_update_window_open(&wide, at(2026, 3, 29, 1, 59)));
    assert_true(tb_update_window_open(&wide, at(2026, 3, 29, 1, 59) + 60)); /* it is 03:00 */
    assert_int_equal(tb_update_window_next(&p, at(2026, 10, 24, 12, 0)), first);
    assert_true(tb_update_window_open(&p, first + 3600));
    assert_false(tb_update_window_open(&p, first + 7200));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_understood),
        cmocka_unit_test(test_what_is_not),
        cmocka_unit_test(test_open_and_next),
        cmocka_unit_test(test_days_of_23_and_25_hours),
    };

    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
