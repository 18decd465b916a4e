/* SPDX-License-Identifier: Apache-2.0 */
/* State files that are gone or cannot be read, usage that is not booked, and another version on its way. */
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

/* --- another version ------------------------------------------------------------------------------------ */

static void update_is(enum tb_update_phase phase, const char *reason)
{
    s.facts.update = (struct tb_update){.phase = phase, .serving = 1, .next = 2};
    if (phase == TB_UPDATE_DRAINING || phase == TB_UPDATE_SWITCHING)
        s.facts.update.hold_until_boot_us = s.boottime_us + 1;
    snprintf(s.facts.update.reason, sizeof(s.facts.update.reason), "%s", reason);
}

static void version_waits(void)
{
    update_is(TB_UPDATE_READY, "");
}

static void version_drains(void)
{
    update_is(TB_UPDATE_DRAINING, "");
}

/* The runtime was stopped, and the model is decrypted. */
static void version_is_loaded(void)
{
    update_is(TB_UPDATE_SWITCHING, "");
    proxy_says("Decrypt", "waiting_for_runtime");
    unit("tb-runtime.service", "inactive", "dead");
    s.facts.delivery.work = TB_WORK_ABSENT;
}

/* It is started again: whether that helps tb-update finds out. */
static void version_dies(void)
{
    version_is_loaded();
    unit("tb-runtime.service", "activating", "auto-restart")->exit_code = 1;
}

/* TB_SWITCH_HOLD is over: requests are refused. */
static void version_takes_long(void)
{
    version_is_loaded();
    s.facts.update.hold_until_boot_us = s.boottime_us;
}

static void version_failed(void)
{
    update_is(TB_UPDATE_FAILED, "the runtime does not start with it");
}

static void version_not_downloaded(void)
{
    update_is(TB_UPDATE_DOWNLOADING, "not enough disk space in /mnt/resource/trustbridge");
    unit("tb-next.service", "failed", "failed")->exit_code = 74;
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
    {{version_waits}, TB_STATUS_OK, TB_STATUS_READY, 0, NULL, NULL},
    {{version_drains}, TB_STATUS_OK, TB_STATUS_READY, 0, NULL, NULL},
    {{version_is_loaded}, TB_STATUS_OK, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{version_dies}, TB_STATUS_OK, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{version_takes_long}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{version_is_loaded, low_var}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 1, "is getting full", "df -h"},
    {{version_takes_long, low_var}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "is getting full", "df -h"},
    {{version_is_loaded, unreachable},
     TB_STATUS_WARNING,
     TB_STATUS_NOT_READY,
     1,
     "the control plane does not answer",
     "serving goes on"},
    {{version_is_loaded, full_run},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the disk of /run is full",
     "du"},
    {{version_is_loaded, suspended},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "refuses this contract",
     NULL},
    {{version_failed},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "version 2 did not serve, and this machine went back to the one before: the runtime does not start",
     "tb-update retry"},
    {{version_not_downloaded},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "version 2 cannot be downloaded: not enough disk space",
     "-u tb-next"},
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
