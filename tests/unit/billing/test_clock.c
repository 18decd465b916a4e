/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "billing/clock_rows.h"
#include "billing/metering.h"
#include "common/io.h"

#define SEC TB_USEC_PER_SEC
#define HOUR TB_USEC_PER_HOUR
#define DAY (24 * HOUR)
#define NOON (1800000000ULL * SEC) /* true time at which each story begins */

/* A world: true time, a boot clock, a wall clock that anybody sets, a control plane whose Date may be had. */
struct world {
    uint64_t true_us, booted_us; /* true time; that of the boot */
    int64_t wall_off_us;         /* wall clock against true time */
    unsigned boot;
    bool kept, has_date;
    uint64_t date_us, date_boot_us;
};

static uint64_t world_boot_us(const struct world *w)
{
    return w->true_us - w->booted_us;
}

static struct billing_clock_input world_input(const struct world *w)
{
    struct billing_clock_input in = {.boot_us = world_boot_us(w),
                                     .real_us = w->true_us + (uint64_t)w->wall_off_us,
                                     .kept = w->kept,
                                     .has_date = w->has_date,
                                     .date_us = w->date_us,
                                     .date_boot_us = w->date_boot_us};

    snprintf(in.boot_id, sizeof(in.boot_id), "boot-%u", w->boot);
    return in;
}

static void world_ask(struct world *w, int64_t control_plane_off_us)
{
    w->has_date = true;
    w->date_us = (w->true_us + (uint64_t)control_plane_off_us) / SEC * SEC + SEC / 2;
    w->date_boot_us = world_boot_us(w);
}

static void world_reboot(struct world *w)
{
    w->boot++;
    w->booted_us = w->true_us;
    w->has_date = w->kept = false;
}

static struct world world_begin(void)
{
    return (struct world){.true_us = NOON + HOUR, .booted_us = NOON};
}

struct look {
    enum billing_clock_event event;
    uint64_t now_us;
    int64_t moved_us;
    bool save;
};

static struct look look(struct billing_clock *c, const struct world *w)
{
    struct billing_clock_input in = world_input(w);
    struct look l;

    l.event = billing_clock_look(c, &in, &l.now_us, &l.moved_us, &l.save);
    return l;
}

static void assert_near(uint64_t have, uint64_t want)
{
    assert_in_range(have, want - 2 * SEC, want + 2 * SEC);
}

static void test_a_step_moves_no_hour_and_is_told_once(void **state)
{
    static const int64_t steps[] = {(int64_t)DAY, -(int64_t)DAY, (int64_t)HOUR, -(int64_t)(61 * SEC),
                                    (int64_t)(400 * DAY)};

    for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
        for (int date = 0; date < 2; date++) {
            struct world w = world_begin();
            struct billing_clock c = {0};
            struct look l;

            if (date)
                world_ask(&w, 0);
            l = look(&c, &w);
            assert_int_equal(l.event, BILLING_CLOCK_QUIET);
            assert_near(l.now_us, w.true_us);
            w.wall_off_us = steps[i];
            w.true_us += 60 * SEC;
            l = look(&c, &w);
            assert_int_equal(l.event, BILLING_CLOCK_STEPPED);
            assert_near(l.now_us, w.true_us);
            assert_in_range(c.off_us - steps[i] + (int64_t)(2 * SEC), 0, 4 * SEC);
            for (int n = 0; n < 100; n++) {
                w.true_us += HOUR;
                if (date && n % 10 == 0)
                    world_ask(&w, 0);
                l = look(&c, &w);
                assert_int_equal(l.event, BILLING_CLOCK_QUIET);
                assert_near(l.now_us, w.true_us);
            }
            w.wall_off_us = 0;
            l = look(&c, &w);
            assert_int_equal(l.event, BILLING_CLOCK_RIGHT);
            assert_near(l.now_us, w.true_us);
        }
}

static void test_small_corrections_are_followed_and_raise_no_alarm(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};

    /* A crystal that is 100 ppm off, for a year, and a daemon that sets it right every day. */
    for (int hour = 0; hour < 365 * 24; hour++) {
        struct look l;

        w.true_us += HOUR;
        w.wall_off_us = hour % 24 == 0 ? 0 : w.wall_off_us + (int64_t)(HOUR / 10000);
        if (hour % 3 == 0)
            world_ask(&w, 0);
        l = look(&c, &w);
        assert_int_equal(l.event, BILLING_CLOCK_QUIET);
        assert_in_range(l.now_us, w.true_us - 60 * SEC, w.true_us + 60 * SEC);
    }
}

static void test_a_boot_with_a_wrong_clock_raises_no_alarm(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};

    for (int kept = 0; kept < 2; kept++) {
        world_reboot(&w);
        c.own = false; /* another process, which has only the anchor */
        w.wall_off_us = -(int64_t)(9 * 365 * DAY);
        w.true_us += 5 * SEC;
        assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
        w.true_us += 5 * SEC;
        w.wall_off_us = 0;
        w.kept = kept;
        if (!kept)
            world_ask(&w, 0);
        assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
        assert_near(look(&c, &w).now_us, w.true_us);
        w.true_us += HOUR;
        assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
        assert_near(look(&c, &w).now_us, w.true_us);
    }
}

static void test_a_clock_that_stays_wrong_after_the_boot_is_told(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};

    world_reboot(&w);
    w.wall_off_us = (int64_t)DAY;
    world_ask(&w, 0);
    assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
    assert_near(look(&c, &w).now_us, w.true_us);
    w.true_us += BILLING_CLOCK_BOOT_US;
    assert_int_equal(look(&c, &w).event, BILLING_CLOCK_STEPPED);
    assert_near(look(&c, &w).now_us, w.true_us);
}

static void test_a_restart_after_a_step(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0}, next = {.anchored = true};

    world_ask(&w, 0);
    look(&c, &w);
    next.anchor = c.anchor;
    w.wall_off_us = (int64_t)DAY;
    w.true_us += 3 * HOUR;
    w.has_date = false;
    assert_int_equal(look(&next, &w).event, BILLING_CLOCK_STEPPED);
    assert_near(look(&next, &w).now_us, w.true_us);
}

static void test_a_boot_without_an_id(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};
    struct billing_clock_input in = world_input(&w);
    uint64_t now_us;
    int64_t moved_us;
    bool save;

    in.boot_id[0] = '\0';
    billing_clock_look(&c, &in, &now_us, &moved_us, &save);
    in.boot_us += 60 * SEC;
    in.real_us += DAY;
    assert_int_equal(billing_clock_look(&c, &in, &now_us, &moved_us, &save), BILLING_CLOCK_STEPPED);
    assert_near(now_us, w.true_us + 60 * SEC);
    assert_near(billing_clock_at(&c, in.boot_us + HOUR), w.true_us + 60 * SEC + HOUR);
}

static void test_a_suspend_is_no_step(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};

    look(&c, &w);
    w.true_us += 90 * DAY; /* both clocks went on */
    w.wall_off_us = (int64_t)SEC;
    assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
}

static void test_a_machine_that_stood_still_is_corrected_and_told(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};
    struct look l;

    world_ask(&w, 0);
    look(&c, &w);
    w.true_us +=
        2 *
        HOUR; /* a snapshot was resumed: its boot clock knows nothing of it, its daemon has set the wall clock */
    w.booted_us += 2 * HOUR;
    world_ask(&w, 0);
    l = look(&c, &w);
    assert_int_equal(l.event, BILLING_CLOCK_MOVED);
    assert_near(l.now_us, w.true_us);
    assert_near((uint64_t)l.moved_us, 2 * HOUR);
}

static void test_a_control_plane_whose_clock_goes_wrong_moves_nothing(void **state)
{
    struct world w = world_begin();
    struct billing_clock c = {0};

    world_ask(&w, 0);
    look(&c, &w);
    w.true_us += HOUR;
    world_ask(&w, (int64_t)DAY);
    assert_int_equal(look(&c, &w).event, BILLING_CLOCK_QUIET);
    assert_near(look(&c, &w).now_us, w.true_us);
}

/* --- the property: steps, restarts and reboots move no usage
 * --------------------------------------------- */

static uint64_t seed;

static uint64_t roll(uint64_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % n;
}

#define HOURS_MAX 4000

struct story {
    struct world w;
    struct billing_clock c;
    struct tb_ledger *l;
    struct tb_usage_snapshot s;
    uint64_t served[HOURS_MAX], total; /* by true hour since the beginning */
};

static void story_book(struct story *t)
{
    char err[TB_LEDGER_ERR_MAX];
    uint64_t booked;
    unsigned moved;
    struct look l = look(&t->c, &t->w);

    if (l.save)
        assert_int_equal(billing_anchor_write(t->l, &t->c.anchor), 0);
    assert_int_equal(tb_ledger_book(t->l, &t->s, l.now_us, &booked, err), 0);
    assert_int_equal(tb_metering_advance(t->l, l.now_us, &moved, err), 0);
}

static void story_restart(struct story *t)
{
    t->c = (struct billing_clock){0};
    assert_int_equal(billing_anchor_read(t->l, &t->c.anchor), 0);
    t->c.anchored = *t->c.anchor.boot_id;
}

static int64_t story_step(void)
{
    static const uint64_t most[] = {30 * SEC, 2 * HOUR, 3 * DAY, 4000 * DAY};
    uint64_t n = most[roll(ARRAY_SIZE(most))];

    return (int64_t)roll(2 * n) - (int64_t)n;
}

static void story_happens(struct story *t)
{
    switch (roll(8)) {
    case 0:
        t->w.wall_off_us += story_step();
        if (t->w.wall_off_us < -(int64_t)(20000 * DAY))
            t->w.wall_off_us = 0;
        break;
    case 1:
        story_restart(t);
        break;
    case 2:
        world_reboot(&t->w);
        t->w.true_us += roll(300) * SEC;
        if (roll(2))
            t->w.wall_off_us = story_step();
        world_ask(&t->w, 0); /* without a lease nothing is served */
        story_restart(t);
        break;
    case 3:
        t->w.wall_off_us = 0; /* set right */
        break;
    case 4:
        world_ask(&t->w, 0);
        break;
    default:
        break;
    }
}

/* Booked within a minute, as the daemon does: so its hour is that of the usage but for that minute. */
static void story_live(struct story *t)
{
    for (int n = 0; n < 400; n++) {
        uint64_t more = roll(20);

        story_happens(t);
        t->w.true_us += roll(HOUR);
        t->s.value[TB_USAGE_REQUESTS] += more;
        t->total += more;
        t->served[(t->w.true_us - NOON) / HOUR] += more;
        story_book(t);
    }
}

static void story_check(struct story *t)
{
    _cleanup_stmt_ sqlite3_stmt *s = NULL;
    uint64_t sum = 0;

    assert_int_equal(
        tb_db_prepare(t->l->db, &s, "SELECT hour, quantity FROM used WHERE counter = 'requests'", NULL), 0);
    while (tb_db_step(s) > 0) {
        int64_t hour = sqlite3_column_int64(s, 0) - (int64_t)(NOON / HOUR);
        uint64_t quantity = (uint64_t)sqlite3_column_int64(s, 1);

        assert_in_range(hour, 0, HOURS_MAX - 1);
        /* A minute of tolerance at each end of an hour may fall into its neighbour. */
        assert_true(t->served[hour] > 0 || t->served[hour + 1] > 0 || (hour > 0 && t->served[hour - 1] > 0));
        sum += quantity;
    }
    assert_int_equal(sum, t->total);
}

static void test_no_hour_lies_outside_the_true_ones(void **state)
{
    for (uint64_t n = 1; n <= 60; n++) {
        struct story t = {.w = world_begin(), .s = {.epoch = "e"}};
        char err[TB_LEDGER_ERR_MAX];

        seed = n * 0x9e3779b97f4a7c15ULL;
        world_ask(&t.w, 0);
        assert_int_equal(tb_ledger_open(":memory:", false, 1, &t.l, err), 0);
        assert_int_equal(access(":memory:", F_OK), -1); /* no file of that name */
        assert_int_equal(tb_db_exec(t.l->db, "PRAGMA synchronous = OFF"), 0);
        story_live(&t);
        story_check(&t);
        tb_ledger_close(t.l);
    }
}

static void test_the_anchor_is_kept_as_it_is(void **state)
{
    struct billing_anchor a = {.boot_us = 12, .real_us = NOON, .source = BILLING_CLOCK_DATE}, b;
    char err[TB_LEDGER_ERR_MAX];
    struct tb_ledger *l;

    assert_int_equal(tb_ledger_open(":memory:", false, 0, &l, err), 0);
    assert_int_equal(billing_anchor_read(l, &b), 0);
    assert_string_equal(b.boot_id, "");
    snprintf(a.boot_id, sizeof(a.boot_id), "5c1f4d6e-0000-4000-8000-123456789abc");
    assert_int_equal(billing_anchor_write(l, &a), 0);
    assert_int_equal(billing_anchor_read(l, &b), 0);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_true(tb_db_run(l->db, "UPDATE meta SET value = 'rubbish' WHERE key = 'clock'", "") > 0);
    assert_int_equal(billing_anchor_read(l, &b), 0);
    assert_string_equal(b.boot_id, "");
    tb_ledger_close(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_step_moves_no_hour_and_is_told_once),
        cmocka_unit_test(test_small_corrections_are_followed_and_raise_no_alarm),
        cmocka_unit_test(test_a_boot_with_a_wrong_clock_raises_no_alarm),
        cmocka_unit_test(test_a_clock_that_stays_wrong_after_the_boot_is_told),
        cmocka_unit_test(test_a_restart_after_a_step),
        cmocka_unit_test(test_a_boot_without_an_id),
        cmocka_unit_test(test_a_suspend_is_no_step),
        cmocka_unit_test(test_a_machine_that_stood_still_is_corrected_and_told),
        cmocka_unit_test(test_a_control_plane_whose_clock_goes_wrong_moves_nothing),
        cmocka_unit_test(test_no_hour_lies_outside_the_true_ones),
        cmocka_unit_test(test_the_anchor_is_kept_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
