/* SPDX-License-Identifier: Apache-2.0 */
/* The way to the model: download, decryption, the inference server. */
#include "causes_testing.h"

static void decrypt_failed(void)
{
    proxy_says("Decrypt", "model.tbenc, record 7: not authentic");
    step(&s.facts.decrypt, TB_WORK_FAILED, "failed", "model.tbenc, record 7: not authentic");
    step(&s.facts.delivery, TB_WORK_FAILED, "failed", "tb-decrypt: status 76");
    unit("tb-decrypt.service", "failed", "failed")->exit_code = 76;
    unit("tb-runtime.service", "failed", "failed")->exit_code = 76;
}

static void fifo_closed(void)
{
    decrypt_failed();
    step(&s.facts.decrypt, TB_WORK_FAILED, "failed",
         "the reader closed the FIFO after 1048576 of 3017440 bytes");
}

static void runtime_hangs(void)
{
    s.proxy.silent_s = 301;
}

/* By hand, when it had all; the runtime goes with it. */
static void hydrate_stopped(void)
{
    proxy_says("Decrypt", "waiting_for_runtime");
    unit("tb-hydrate.service", "inactive", "dead");
    unit("tb-runtime.service", "inactive", "dead");
    s.facts.delivery.work = TB_WORK_ABSENT;
}

static void hydrate_stopped_in_its_work(void)
{
    hydrate_stopped();
    proxy_says("Hydrate", "stopped by a signal; progress is kept, the next start goes on");
    step(&s.facts.hydrate, TB_WORK_FAILED, "failed", "stopped by a signal; progress is kept");
    s.facts.decrypt.work = TB_WORK_ABSENT;
    unit("tb-hydrate.service", "failed", "failed")->killed_by = SIGTERM;
}

static void hydrate_about_to_start(void)
{
    hydrate_stopped();
    strcpy(unit("tb-hydrate.service", "inactive", "dead")->job, "start");
}

static void runtime_stopped(void)
{
    hydrate_stopped();
    unit("tb-hydrate.service", "active", "exited");
}

static void runtime_stopped_slowly(void)
{
    struct tb_unit *u;

    runtime_stopped();
    u = unit("tb-runtime.service", "failed", "failed");
    snprintf(u->result, sizeof(u->result), "timeout");
    u->killed_by = 9;
}

static void runtime_about_to_start(void)
{
    runtime_stopped();
    strcpy(unit("tb-runtime.service", "inactive", "dead")->job, "start");
}

static const struct row rows[] = {
    {{downloading}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{decrypt_failed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-decrypt.service: model.tbenc, record 7",
     "-u tb-decrypt.service"},
    {{fifo_closed},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "the reader closed the FIFO after 1048576",
     "set TB_DELIVERY=auto"},
    {{runtime_down},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "does not answer 200 to TB_RUNTIME_HEALTH",
     "TB_RUNTIME_URL"},
    {{runtime_dies},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "exit 1; it said: unknown option --modle",
     "-u tb-runtime.service"},
    {{hydrate_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-hydrate.service is stopped, and without it",
     "systemctl start tb-hydrate.service"},
    {{hydrate_stopped_in_its_work},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-hydrate.service is stopped, and without it",
     "systemctl start tb-hydrate.service"},
    {{hydrate_about_to_start}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{runtime_stopped},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-runtime.service is stopped",
     "systemctl start tb-runtime.service"},
    {{runtime_stopped_slowly},
     TB_STATUS_CRITICAL,
     TB_STATUS_NOT_READY,
     1,
     "tb-runtime.service is stopped",
     "systemctl start tb-runtime.service"},
    {{runtime_about_to_start}, TB_STATUS_WARNING, TB_STATUS_NOT_READY, 0, NULL, NULL},
    {{hydrate_stopped, suspended}, TB_STATUS_CRITICAL, TB_STATUS_NOT_READY, 1, "refuses this contract", NULL},
    {{runtime_hangs},
     TB_STATUS_WARNING,
     TB_STATUS_READY,
     1,
     "has said nothing for 5 min",
     "restart tb-runtime.service"},
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
