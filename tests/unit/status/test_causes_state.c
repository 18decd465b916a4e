/* SPDX-License-Identifier: Apache-2.0 */
/* State files that are gone or cannot be read, and usage that is not booked. */
#include "causes_testing.h"

static void billing_stuck(void)
{
    s.ledger.age_us = 3600 * S;
}

static void lease_file_cut(void)
{
    s.facts.broken = "tb-authorize/lease.json";
    s.facts.broken_error = -EBADMSG;
}

/* By somebody who cleaned /run, while the inference server serves. */
static void delivery_removed(void)
{
    proxy_says("Decrypt", "state_file_lost: tb-runtime/delivery.json");
    s.facts.delivery.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "active", "exited");
}

static void lease_removed(void)
{
    proxy_says("Boot", "starting");
    s.facts.lease = TB_LEASE_ABSENT;
}

static void runtime_just_started(void)
{
    delivery_removed();
    unit("tb-runtime.service", "active", "running")->since_realtime_us = NOW - S;
}

static void counters_lost(void)
{
    strcpy(s.proxy.state_trouble,
           "/s/usage was removed, and cannot be written again: No space left on device");
}

static const struct row rows[] = {
    {{delivery_removed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-runtime/delivery.json was removed while tb-runtime.service runs",
     "systemctl restart tb-runtime.service"},
    {{lease_removed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-authorize/lease.json was removed",
     "systemctl restart tb-authorize.service"},
    {{runtime_just_started}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{counters_lost}, TB_STATUS_CRITICAL, TB_STATUS_READY, 1, "/s/usage was removed", "writable"},
    {{lease_file_cut},
     TB_STATUS_CRITICAL,
     TB_STATUS_READY,
     1,
     "tb-authorize/lease.json cannot be read: Bad message",
     "restart tb-authorize.service"},
    {{billing_stuck},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "usage has not been booked for 1 h",
     "tb-billing.service"},
};

static void test_each_condition(void **unused)
{
    check_rows(rows, ARRAY_SIZE(rows));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_condition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
