/* SPDX-License-Identifier: Apache-2.0 */
/* Timers run in the order they are due, and not before; tasks run once, after what was ready. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "common/macros.h"
#include "common/units.h"
#include "proxy/http/loop.h"

#define N 500

static struct tb_loop loop;
static uint64_t last_due;
static unsigned fired;

static int setup(void **state)
{
    last_due = 0;
    fired = 0;
    return tb_loop_init(&loop);
}

static int teardown(void **state)
{
    tb_loop_done(&loop);
    return 0;
}

static void in_order(struct tb_timer *t)
{
    assert_true(t->due_us >= last_due);
    assert_true(t->due_us <= tb_now_monotonic_us());
    assert_false(tb_timer_is_set(t));
    last_due = t->due_us;
    fired++;
}

static void test_timers_run_in_order(void **state)
{
    static struct tb_timer timer[N];
    uint64_t now = tb_now_monotonic_us();
    unsigned set = 0;

    srand(1);
    for (int i = 0; i < N; i++) {
        timer[i].fn = in_order;
        tb_timer_set(&loop, &timer[i], now + (uint64_t)(rand() % 20000));
    }
    for (int i = 0; i < N; i++) /* some are moved, some stopped, some of these set again */
        if (i % 3 == 0)
            tb_timer_set(&loop, &timer[i], now + (uint64_t)(rand() % 20000));
        else if (i % 7 == 0)
            tb_timer_stop(&loop, &timer[i]);
    for (int i = 0; i < N; i++)
        set += tb_timer_is_set(&timer[i]);
    assert_true(set < N);
    while (loop.n_timers > 0)
        assert_int_equal(tb_loop_once(&loop, -1), 0);
    assert_int_equal(fired, set);
}

static void test_it_sleeps_until_due(void **state)
{
    struct tb_timer t = {.fn = in_order};
    uint64_t now = tb_now_monotonic_us();

    tb_timer_set(&loop, &t, now + 50000);
    for (int turns = 0; fired == 0; turns++) {
        assert_true(turns < 3);
        assert_int_equal(tb_loop_once(&loop, -1), 0);
    }
    assert_true(tb_now_monotonic_us() - now >= 50000);
    assert_int_equal(tb_loop_once(&loop, 0), 0);
    assert_int_equal(fired, 1);
}

static void test_a_period_is_a_multiple(void **state)
{
    struct tb_timer t = {.fn = in_order};

    tb_timer_set_period(&loop, &t, TB_USEC_PER_SEC);
    assert_int_equal(t.due_us % TB_USEC_PER_SEC, 0);
    assert_true(t.due_us - tb_now_monotonic_us() <= TB_USEC_PER_SEC);
    tb_timer_stop(&loop, &t);
    tb_timer_stop(&loop, &t);
}

static void again(struct tb_task *t)
{
    fired++;
    tb_loop_defer(&loop, t);
    tb_loop_defer(&loop, t); /* once is enough */
}

static void test_a_task_that_comes_back_leaves_room_for_events(void **state)
{
    struct tb_task t = {.fn = again};
    struct tb_timer timer = {.fn = in_order};
    unsigned turns = 0;

    tb_loop_defer(&loop, &t);
    tb_timer_set(&loop, &timer, tb_now_monotonic_us() + 3000);
    while (last_due == 0) { /* each turn comes to an end, and does not sleep while there is a task */
        unsigned before = fired;

        assert_int_equal(tb_loop_once(&loop, -1), 0);
        assert_true(fired > before);
        turns++;
    }
    assert_true(turns < fired);
    tb_loop_cancel(&loop, &t);
    turns = fired;
    assert_int_equal(tb_loop_once(&loop, 0), 0);
    assert_int_equal(fired, turns);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_timers_run_in_order),
        T(test_it_sleeps_until_due),
        T(test_a_period_is_a_multiple),
        T(test_a_task_that_comes_back_leaves_room_for_events),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
