/* SPDX-License-Identifier: Apache-2.0 */
/* Every combination of facts against the rules, stated once more in another way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "common/service_state.h"

static struct tb_facts ready_facts(void)
{
    struct tb_facts f = {.lease = TB_LEASE_AUTHORIZED, .runtime_healthy = true};

    f.hydrate.work = f.decrypt.work = f.delivery.work = TB_WORK_COMPLETE;
    return f;
}

static void expect(const struct tb_facts *f, uint64_t now, enum tb_state state, const char *reason)
{
    struct tb_verdict v;

    tb_state_derive(f, now, &v);
    assert_string_equal(tb_state_name(v.state), tb_state_name(state));
    assert_string_equal(v.reason, reason);
}

static void test_all_combinations(void **unused)
{
    for (unsigned i = 0; i < 2 * 6 * 3 * 4 * 4 * 4 * 2 * 2; i++) {
        unsigned k = i;
        struct tb_facts f = {0};
        struct tb_verdict v;
        bool suspended, ready, down;

        f.suspended_flag = k % 2, k /= 2;
        f.lease = k % 6, k /= 6;
        f.has_deadline = k % 3 > 0;
        f.deadline_boottime_us = k % 3 == 1 ? 1000 : 1001, k /= 3; /* now is 1000: over, not over */
        f.hydrate.work = k % 4, k /= 4;
        f.decrypt.work = k % 4, k /= 4;
        f.delivery.work = k % 4, k /= 4;
        f.runtime_healthy = k % 2, k /= 2;
        strcpy(f.audit_trouble, k % 2 ? "audit_unavailable: disk full" : "");
        tb_state_derive(&f, 1000, &v);

        suspended = f.suspended_flag || f.lease == TB_LEASE_DENIED || f.lease == TB_LEASE_EXPIRED ||
                    (f.has_deadline && f.deadline_boottime_us == 1000);
        ready = !suspended && (f.lease == TB_LEASE_AUTHORIZED || f.lease == TB_LEASE_UNREACHABLE) &&
                f.delivery.work == TB_WORK_COMPLETE && f.runtime_healthy;
        down = ready && f.audit_trouble[0];
        ready = ready && !down;
        assert_int_equal(v.state == TB_STATE_SUSPENDED, suspended);
        assert_int_equal(v.state == TB_STATE_READY, ready);
        assert_int_equal(v.state == TB_STATE_DOWN, down);
        if (v.failed)
            assert_true(v.state == TB_STATE_HYDRATE || v.state == TB_STATE_DECRYPT);
        assert_int_equal(v.state == TB_STATE_BOOT, !suspended && f.lease == TB_LEASE_ABSENT);
        assert_int_equal(v.state == TB_STATE_AUTHORIZE, !suspended && f.lease == TB_LEASE_PENDING);
        if (v.state == TB_STATE_HYDRATE)
            assert_true(f.hydrate.work != TB_WORK_COMPLETE);
        if (v.state != TB_STATE_READY)
            assert_true(v.reason[0] != '\0'); /* whatever is not Ready says why */
    }
}

static void test_reasons(void **unused)
{
    struct tb_facts f = ready_facts();

    expect(&f, 0, TB_STATE_READY, "");
    f.lease = TB_LEASE_UNREACHABLE;
    expect(&f, 0, TB_STATE_READY, "control_plane_unreachable");
    f.has_deadline = true;
    f.deadline_boottime_us = 5;
    expect(&f, 4, TB_STATE_READY, "control_plane_unreachable");
    expect(&f, 5, TB_STATE_SUSPENDED, "lease_expired");
    f = ready_facts();
    strcpy(f.audit_trouble, "audit_unavailable: disk full");
    expect(&f, 0, TB_STATE_DOWN, "audit_unavailable: disk full");
    f.lease = TB_LEASE_UNREACHABLE; /* nothing is served: why not is what matters */
    expect(&f, 0, TB_STATE_DOWN, "audit_unavailable: disk full");
    f.runtime_healthy =
        false; /* with a runtime back and records kept it would go on: one thing after another */
    expect(&f, 0, TB_STATE_DECRYPT, "runtime_not_answering");
    f = ready_facts();
    f.runtime_healthy = false;
    expect(&f, 0, TB_STATE_DECRYPT, "runtime_not_answering");
    f.delivery.work =
        TB_WORK_ABSENT; /* and the last run's decryption was complete, which explains nothing now */
    strcpy(f.decrypt.phase, "complete");
    expect(&f, 0, TB_STATE_DECRYPT, "waiting_for_runtime");
    f.delivery.work = TB_WORK_FAILED;
    strcpy(f.delivery.reason, "disk full");
    expect(&f, 0, TB_STATE_DECRYPT, "disk full");
    f.hydrate.work = TB_WORK_FAILED;
    strcpy(f.hydrate.reason, "sha256 mismatch");
    expect(&f, 0, TB_STATE_HYDRATE, "sha256 mismatch");
    f.lease = TB_LEASE_DENIED;
    strcpy(f.lease_reason, "subscription_inactive");
    expect(&f, 0, TB_STATE_SUSPENDED, "subscription_inactive");
    f.suspended_flag = true;
    strcpy(f.suspended_reason, "contract_revoked");
    expect(&f, 0, TB_STATE_SUSPENDED, "contract_revoked");
}

/* What has failed does not get better by waiting; what is under way does. */
static void test_failed_steps(void **unused)
{
    struct tb_facts f = {.lease = TB_LEASE_AUTHORIZED};
    struct tb_verdict v;

    f.hydrate.work = TB_WORK_RUNNING;
    tb_state_derive(&f, 0, &v);
    assert_false(v.failed);
    f.hydrate.work = TB_WORK_FAILED;
    tb_state_derive(&f, 0, &v);
    assert_true(v.state == TB_STATE_HYDRATE && v.failed);
    f.hydrate.work = TB_WORK_COMPLETE;
    f.decrypt.work = TB_WORK_FAILED;
    tb_state_derive(&f, 0, &v);
    assert_true(v.state == TB_STATE_DECRYPT && v.failed);
    f.decrypt.work = TB_WORK_COMPLETE;
    f.delivery.work = TB_WORK_FAILED;
    tb_state_derive(&f, 0, &v);
    assert_true(v.state == TB_STATE_DECRYPT && v.failed);
    f.delivery.work = TB_WORK_RUNNING;
    tb_state_derive(&f, 0, &v);
    assert_true(v.state == TB_STATE_DECRYPT && !v.failed);
}

static void test_words(void **unused)
{
    assert_int_equal(tb_lease_state_from_name("authorized"), TB_LEASE_AUTHORIZED);
    assert_int_equal(tb_lease_state_from_name("AUTHORIZED"), TB_LEASE_ABSENT);
    assert_int_equal(tb_lease_state_from_name(""), TB_LEASE_ABSENT);
    assert_int_equal(tb_work_from_string("delivered"), TB_WORK_COMPLETE);
    assert_int_equal(tb_work_from_string("failed"), TB_WORK_FAILED);
    assert_int_equal(tb_work_from_string("downloading"), TB_WORK_RUNNING);
}

/* Where nothing comes any more it is no waiting; what is not missing is not told. */
static void test_a_file_that_was_removed_is_the_reason(void **unused)
{
    struct tb_facts f = ready_facts();
    struct tb_verdict v;

    f.lost = "tb-runtime/delivery.json";
    expect(&f, 0, TB_STATE_READY, "");
    f.delivery.work = TB_WORK_ABSENT;
    expect(&f, 0, TB_STATE_DECRYPT, "state_file_lost: tb-runtime/delivery.json");
    tb_state_derive(&f, 0, &v);
    assert_true(v.failed);
    f.hydrate.work = TB_WORK_ABSENT;
    f.lost = "tb-hydrate/progress.json";
    expect(&f, 0, TB_STATE_HYDRATE, "state_file_lost: tb-hydrate/progress.json");
    f.lease = TB_LEASE_ABSENT;
    expect(&f, 0, TB_STATE_BOOT, "starting");
    f.lost = "tb-authorize/lease.json";
    expect(&f, 0, TB_STATE_BOOT, "state_file_lost: tb-authorize/lease.json");
    f.suspended_flag = true;
    expect(&f, 0, TB_STATE_SUSPENDED, "suspended");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_combinations),
        cmocka_unit_test(test_reasons),
        cmocka_unit_test(test_failed_steps),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_a_file_that_was_removed_is_the_reason),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
