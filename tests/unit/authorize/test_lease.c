/* SPDX-License-Identifier: Apache-2.0 */
#include "authorize/lease.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#include "common/units.h"

#define S TB_USEC_PER_SEC
#define GRACE (100 * S)
#define REAL0 (1767868800ULL * S)

static struct tb_lease l;
static struct tb_clock now;

static int setup(void **state)
{
    now = (struct tb_clock){.boot_us = 1000 * S, .real_us = REAL0};
    tb_lease_init(&l, GRACE, &now);
    return 0;
}

static void pass(uint64_t us)
{
    now.boot_us += us;
    now.real_us += us;
}

static void authorize(uint64_t lifetime_us)
{
    struct authorize_verdict v = {.outcome.code = AUTHORIZE_GRANTED,
                                  .retry_after_ms = -1,
                                  .expires_at_us = lifetime_us ? now.real_us + lifetime_us : 0};

    tb_lease_apply(&l, &v, &now);
}

static void deny(const char *reason)
{
    struct authorize_verdict v = {.outcome.code = AUTHORIZE_DENIED, .retry_after_ms = -1};

    snprintf(v.outcome.reason, sizeof(v.outcome.reason), "%s", reason);
    tb_lease_apply(&l, &v, &now);
}

static void fail_once(const char *reason, int64_t retry_after_ms)
{
    struct authorize_verdict v = {.outcome.code = AUTHORIZE_RETRY, .retry_after_ms = retry_after_ms};

    snprintf(v.outcome.reason, sizeof(v.outcome.reason), "%s", reason);
    tb_lease_apply(&l, &v, &now);
}

#define assert_about(us, want) assert_in_range(us, (want)*9 / 10 - 1000, (want)*11 / 10 + 1000)

static void test_asks_at_once_and_then_backs_off(void **state)
{
    static const uint64_t delays[] = {2, 4, 8, 16, 32, 60, 60};

    assert_true(tb_lease_due(&l, &now));
    assert_false(tb_lease_serving(&l));
    for (size_t i = 0; i < ARRAY_SIZE(delays); i++) {
        fail_once("connection refused", -1);
        assert_int_equal(l.state, TB_LEASE_PENDING);
        assert_false(l.suspended);
        assert_string_equal(l.reason, "connection refused");
        assert_about(l.next_request_boot_us - now.boot_us, delays[i] * S);
        assert_false(tb_lease_due(&l, &now));
        pass(l.next_request_boot_us - now.boot_us);
        assert_true(tb_lease_due(&l, &now));
    }
}

static void test_retry_after_is_honoured(void **state)
{
    fail_once("busy", 30000);
    assert_int_equal(l.next_request_boot_us - now.boot_us, 30 * S);
    /* also by those who are in a hurry */
    tb_lease_ask_soon(&l, &now);
    assert_int_equal(l.next_request_boot_us - now.boot_us, 30 * S);
    pass(31 * S);
    fail_once("busy", 1000); /* shorter than our own patience */
    assert_about(l.next_request_boot_us - now.boot_us, 4 * S);
}

static void test_renews_at_half_time(void **state)
{
    authorize(100 * S);
    assert_true(tb_lease_serving(&l));
    assert_about(l.next_request_boot_us - now.boot_us, 50 * S);
    assert_int_equal(l.deadline_boot_us, now.boot_us + 200 * S);
    authorize(1);
    assert_about(l.next_request_boot_us - now.boot_us, 1 * S);
    authorize(30ULL * 86400 * S);
    assert_about(l.next_request_boot_us - now.boot_us, 300 * S);
    authorize(0);
    assert_about(l.next_request_boot_us - now.boot_us, 300 * S);
    assert_int_equal(l.deadline_boot_us, 0);
}

static void test_unreachable_serves_until_the_deadline(void **state)
{
    authorize(100 * S);
    pass(50 * S);
    for (int i = 0; i < TB_LEASE_TRIES - 1; i++)
        fail_once("refused", -1);
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    fail_once("refused", -1);
    assert_int_equal(l.state, TB_LEASE_UNREACHABLE);
    assert_string_equal(l.reason, "refused");
    assert_true(tb_lease_serving(&l));
    pass(149 * S);
    assert_false(tb_lease_tick(&l, &now));
    assert_true(tb_lease_serving(&l));
    pass(1 * S);
    assert_true(tb_lease_tick(&l, &now));
    assert_int_equal(l.state, TB_LEASE_EXPIRED);
    assert_true(l.suspended);
    assert_false(tb_lease_serving(&l));
    assert_non_null(strstr(l.reason, "refused"));
    assert_false(tb_lease_tick(&l, &now));
    fail_once("still refused", -1);
    assert_int_equal(l.state, TB_LEASE_EXPIRED);
    assert_non_null(strstr(l.reason, "expired"));
    authorize(100 * S);
    assert_true(tb_lease_serving(&l));
    assert_string_equal(l.reason, "");
}

static void test_one_failure_past_expiry_is_unreachable(void **state)
{
    authorize(10 * S);
    pass(5 * S);
    fail_once("refused", -1);
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    assert_int_equal(tb_lease_wakeup_us(&l, true), l.expires_boot_us);
    pass(5 * S);
    assert_true(tb_lease_tick(&l, &now));
    assert_int_equal(l.state, TB_LEASE_UNREACHABLE);
    assert_int_equal(tb_lease_wakeup_us(&l, true), l.deadline_boot_us);
}

static void test_no_expiry_never_expires(void **state)
{
    authorize(0);
    for (int i = 0; i < 10; i++)
        fail_once("refused", -1);
    pass(1000ULL * 86400 * S);
    assert_false(tb_lease_tick(&l, &now));
    assert_int_equal(l.state, TB_LEASE_UNREACHABLE);
    assert_true(tb_lease_serving(&l));
    assert_int_equal(tb_lease_wakeup_us(&l, true), UINT64_MAX);
}

static void test_denied_suspends_at_once_and_resumes(void **state)
{
    authorize(100 * S);
    deny("subscription_inactive");
    assert_int_equal(l.state, TB_LEASE_DENIED);
    assert_true(l.suspended);
    assert_int_equal(l.deadline_boot_us, 0);
    assert_about(l.next_request_boot_us - now.boot_us, 10 * S);
    fail_once("refused", -1); /* an unreachable control plane does not lift a denial */
    assert_int_equal(l.state, TB_LEASE_DENIED);
    assert_true(l.suspended);
    assert_string_equal(l.reason, "subscription_inactive");
    pass(1000 * S);
    tb_lease_tick(&l, &now);
    assert_true(l.suspended);
    authorize(100 * S);
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    assert_false(l.suspended);
}

static void test_a_stepped_wall_clock_moves_no_deadline(void **state)
{
    uint64_t deadline;

    authorize(100 * S);
    deadline = l.deadline_boot_us;
    now.real_us += 365ULL * 86400 * S;
    tb_lease_tick(&l, &now);
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED);
    assert_int_equal(l.deadline_boot_us, deadline);
    now.real_us = 0;
    now.boot_us = deadline;
    assert_true(tb_lease_tick(&l, &now));
    assert_int_equal(l.state, TB_LEASE_EXPIRED);
}

static void test_a_restored_suspension_holds(void **state)
{
    tb_lease_restore_suspended(&l, "subscription_inactive");
    assert_int_equal(l.state, TB_LEASE_PENDING);
    fail_once("refused", -1);
    assert_true(l.suspended);
    assert_string_equal(l.reason, "subscription_inactive");
    authorize(0);
    assert_false(l.suspended);
}

static void test_a_restored_lease_serves_until_its_deadline(void **state)
{
    tb_lease_restore_serving(&l, REAL0 + 10 * S, now.boot_us + 110 * S, REAL0, NULL);
    assert_true(tb_lease_serving(&l));
    assert_int_equal(l.state, TB_LEASE_AUTHORIZED); /* a restart is no reason for an alarm */
    assert_true(tb_lease_due(&l, &now));
    tb_lease_restore_serving(&l, REAL0 + 10 * S, now.boot_us + 110 * S, REAL0, "timed out");
    assert_int_equal(l.state, TB_LEASE_UNREACHABLE); /* nor does it end one */
    assert_string_equal(l.reason, "timed out");
    fail_once("refused", -1);
    assert_string_equal(l.reason, "refused");
    pass(110 * S);
    assert_true(tb_lease_tick(&l, &now));
    assert_int_equal(l.state, TB_LEASE_EXPIRED);
}

static void test_haste_keeps_a_distance(void **state)
{
    authorize(0);
    tb_lease_ask_soon(&l, &now);
    assert_int_equal(l.next_request_boot_us - now.boot_us, TB_LEASE_SPACING_US);
    pass(10 * S);
    l.next_request_boot_us = now.boot_us + 100 * S;
    tb_lease_ask_soon(&l, &now);
    assert_true(tb_lease_due(&l, &now));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
    const struct CMUnitTest tests[] = {
        T(test_asks_at_once_and_then_backs_off),
        T(test_retry_after_is_honoured),
        T(test_renews_at_half_time),
        T(test_unreachable_serves_until_the_deadline),
        T(test_one_failure_past_expiry_is_unreachable),
        T(test_no_expiry_never_expires),
        T(test_denied_suspends_at_once_and_resumes),
        T(test_a_stepped_wall_clock_moves_no_deadline),
        T(test_a_restored_suspension_holds),
        T(test_a_restored_lease_serves_until_its_deadline),
        T(test_haste_keeps_a_distance),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
