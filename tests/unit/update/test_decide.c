/* SPDX-License-Identifier: Apache-2.0 */
#include "update/decide.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "common/units.h"

#define S TB_USEC_PER_SEC

static struct update_facts f;
static struct update_memory m;
static const char *why;

/* Version 1 serves and is wanted. */
static int setup(void **state)
{
    f = (struct update_facts){.policy = {.mode = TB_UPDATE_MANUAL},
                              .drain_us = 30 * S,
                              .timeout_us = 600 * S,
                              .now_boot_us = 1000 * S,
                              .lease_serving = true,
                              .wanted = 1,
                              .has_serving = true,
                              .choice = {.asset_id = "a", .version = 1},
                              .loaded = 1,
                              .restarts_known = true,
                              .healthy = 1};
    m = (struct update_memory){0};
    return 0;
}

static void expect_action(enum update_action want, enum tb_update_phase phase, int line)
{
    enum update_action got = update_decide(&f, &m, &why);

    if (got != want || m.phase != phase)
        fail_msg("line %d: action %d, phase %s", line, got, tb_update_phase_name(m.phase));
}
#define EXPECT(action, phase) expect_action(UPDATE_##action, TB_UPDATE_##phase, __LINE__)

static void on_trial(void)
{
    f.wanted = f.choice.version = 2;
    f.choice.previous = 1;
    f.complete = 2;
    f.loaded = f.healthy = 0;
}

static void test_nothing_to_do(void **state)
{
    EXPECT(WAIT, NONE);
    f.wanted = 0; /* a control plane without versions */
    EXPECT(WAIT, NONE);
    f.wanted = 2;
    f.lease_serving = false;
    EXPECT(WAIT, NONE);
    f.lease_serving = true;
    f.has_serving = false;
    EXPECT(WAIT, NONE);
}

static void test_what_serves_is_given_its_number(void **state)
{
    f.has_serving = false;
    f.choice = (struct tb_serving){0};
    f.loaded = f.healthy = 0;
    EXPECT(WAIT, NONE); /* the first download is tb-hydrate's */
    f.delivered = true;
    f.lease_serving = false;
    EXPECT(WAIT, NONE);
    f.lease_serving = true;
    f.wanted = 0;
    EXPECT(WAIT, NONE);
    f.wanted = 1;
    EXPECT(ADOPT, NONE);
    f.download_runs = true;
    f.download_of = 1;
    EXPECT(WAIT, NONE);
    f.has_serving = true; /* written, and the unit not at its end */
    f.choice.version = 1;
    EXPECT(WAIT, NONE);
    f.has_serving = false;
    f.download_runs = false;
    EXPECT(WAIT, NONE); /* it is not that version: another may be */
    f.wanted = 2;
    m.download_at_us = f.now_boot_us + 1;
    EXPECT(WAIT, NONE);
    m.download_at_us = 0;
    EXPECT(ADOPT, NONE);
}

static void test_download_then_wait_for_the_operator(void **state)
{
    f.wanted = 2;
    EXPECT(DOWNLOAD, DOWNLOADING);
    f.download_runs = true;
    f.download_of = 2;
    EXPECT(WAIT, DOWNLOADING);
    f.download_runs = false;
    m.download_at_us = f.now_boot_us + 1;
    EXPECT(WAIT, DOWNLOADING);
    f.now_boot_us++;
    EXPECT(DOWNLOAD, DOWNLOADING);
    f.complete = 2;
    EXPECT(WAIT, READY);
    f.asked = true;
    EXPECT(DRAIN, DRAINING);
    EXPECT(WAIT, DRAINING);
    f.drained = true;
    EXPECT(SWITCH, SWITCHING);
}

static void test_other_promotions_meanwhile(void **state)
{
    f.wanted = 2;
    f.download_runs = true;
    f.download_of = 2;
    EXPECT(WAIT, DOWNLOADING);
    f.wanted = 3;
    EXPECT(ABANDON, DOWNLOADING);
    f.wanted = 1; /* rolled back */
    EXPECT(ABANDON, NONE);
    f.download_runs = false;
    EXPECT(WAIT, NONE);
    f.wanted = f.complete = 2;
    f.asked = true;
    EXPECT(DRAIN, DRAINING);
    f.wanted = 3; /* while requests are waited for */
    EXPECT(WAIT, NONE);
    EXPECT(DOWNLOAD, DOWNLOADING);
}

static void test_requests_are_waited_for_so_long(void **state)
{
    f.wanted = f.complete = 2;
    f.asked = true;
    EXPECT(DRAIN, DRAINING);
    f.now_boot_us += 30 * S - 1;
    EXPECT(WAIT, DRAINING);
    f.now_boot_us++;
    EXPECT(SWITCH, SWITCHING);
    setup(state);
    f.wanted = f.complete = 2;
    f.asked = true;
    f.loaded = 0; /* nobody is served */
    EXPECT(SWITCH, SWITCHING);
}

static void test_restart_chooses_and_lets_it_serve_on(void **state)
{
    f.policy.mode = TB_UPDATE_RESTART;
    f.wanted = f.complete = 2;
    EXPECT(TAKE, READY);
    f.choice = (struct tb_serving){.asset_id = "a", .version = 2, .previous = 1};
    f.now_boot_us += 100000 * S; /* however long */
    EXPECT(WAIT, READY);
    f.loaded = f.healthy = 0; /* the runtime starts anew */
    EXPECT(WAIT, SWITCHING);
    f.loaded = f.healthy = 2;
    EXPECT(KEEP, SWITCHING);
    f.choice.previous = 0;
    EXPECT(WAIT, NONE);
}

static void test_chosen_while_the_one_before_is_loaded(void **state)
{
    f.policy.mode = TB_UPDATE_RESTART;
    f.wanted = f.complete = 2;
    f.loaded = f.healthy = 0;
    EXPECT(TAKE, READY);
    f.choice = (struct tb_serving){.asset_id = "a", .version = 2, .previous = 1};
    EXPECT(WAIT, SWITCHING);
    f.loaded = 1;
    EXPECT(WAIT, SWITCHING);
    f.healthy = 1;
    EXPECT(WAIT, READY);
    f.now_boot_us += 600 * S; /* nothing is stopped, nothing has failed */
    EXPECT(WAIT, READY);
    f.loaded = f.healthy = 0;
    EXPECT(WAIT, SWITCHING);
    f.loaded = f.healthy = 2;
    EXPECT(KEEP, SWITCHING);
}

static void test_a_choice_that_waits_can_be_hurried_and_changed(void **state)
{
    f.policy.mode = TB_UPDATE_RESTART;
    f.wanted = f.complete = 2;
    f.choice = (struct tb_serving){.asset_id = "a", .version = 2, .previous = 1};
    f.asked = true;
    EXPECT(DRAIN, DRAINING);
    f.drained = true;
    EXPECT(SWITCH, SWITCHING);
    m = (struct update_memory){0};
    f.asked = f.drained = false;
    f.wanted = 3;
    EXPECT(DOWNLOAD, DOWNLOADING);
    f.complete = 3;
    EXPECT(TAKE, READY);
    f.wanted = f.complete = 1;
    EXPECT(TAKE, READY);
}

static void test_a_trial_ends_one_way_or_the_other(void **state)
{
    on_trial();
    EXPECT(WAIT, SWITCHING);
    f.loaded = 2;
    EXPECT(WAIT, SWITCHING);
    f.healthy = 1; /* what the proxy saw last */
    EXPECT(WAIT, SWITCHING);
    f.now_boot_us += 600 * S;
    EXPECT(BACK, SWITCHING);
    assert_non_null(strstr(why, "TB_SWITCH_TIMEOUT"));
    m = (struct update_memory){0};
    f.runtime_failed = true;
    EXPECT(BACK, SWITCHING);
    f.runtime_failed = false;
    f.restarts = 7;
    EXPECT(WAIT, SWITCHING);
    f.restarts = 0; /* started anew: counted anew */
    EXPECT(WAIT, SWITCHING);
    f.restarts = 3;
    EXPECT(BACK, SWITCHING);
    f.restarts = 0;
    f.wanted = 1;
    EXPECT(BACK, SWITCHING);
    assert_non_null(strstr(why, "promoted"));
}

/* systemd is not asked at each look, and counts over the whole life of the runtime. */
static void test_restarts_of_before_the_trial_are_not_its_own(void **state)
{
    static const struct {
        bool known;
        uint32_t restarts;
    } looks[] = {{false, 0}, {true, 7}, {true, 9}, {false, 0}, {true, 10}};

    on_trial();
    for (size_t i = 0; i < ARRAY_SIZE(looks); i++) {
        bool last = i + 1 == ARRAY_SIZE(looks);

        f.restarts_known = looks[i].known;
        f.restarts = looks[i].restarts;
        expect_action(last ? UPDATE_BACK : UPDATE_WAIT, TB_UPDATE_SWITCHING, __LINE__);
    }
}

static void test_what_cannot_be_written_is_tried_again_later(void **state)
{
    on_trial();
    f.loaded = f.healthy = 2;
    m.again_at_us = f.now_boot_us + 60 * S;
    EXPECT(WAIT, SWITCHING);
    f.now_boot_us += 60 * S;
    EXPECT(KEEP, SWITCHING);
}

static void test_a_suspension_proves_nothing(void **state)
{
    on_trial();
    EXPECT(WAIT, SWITCHING);
    f.lease_serving = false;
    f.now_boot_us += 10000 * S;
    f.runtime_failed = true;
    EXPECT(WAIT, SWITCHING);
    f.lease_serving = true;
    f.runtime_failed = false;
    EXPECT(WAIT, SWITCHING);
}

static void test_what_failed_waits_to_be_told(void **state)
{
    f.wanted = f.failed = 2;
    EXPECT(WAIT, FAILED);
    f.complete = 2;
    f.policy.mode = TB_UPDATE_RESTART;
    EXPECT(WAIT, FAILED);
    f.asked = true;
    EXPECT(DRAIN, DRAINING);
    setup(state);
    f.wanted = 3;
    f.failed = 2;
    EXPECT(DOWNLOAD, DOWNLOADING);
}

/* Whatever else: it is started by whoever stopped it. */
static void test_a_runtime_that_was_stopped_by_hand(void **state)
{
    on_trial();
    f.runtime_stopped = true;
    EXPECT(WAIT, READY);
    f.now_boot_us += 10 * f.timeout_us;
    EXPECT(WAIT, READY);
    f.runtime_stopped = false; /* started, and only now on trial */
    EXPECT(WAIT, SWITCHING);
    f.now_boot_us += f.timeout_us - 1;
    EXPECT(WAIT, SWITCHING);
    f.runtime_stopped = true; /* in the middle of it */
    f.now_boot_us += 2;
    EXPECT(WAIT, READY);
    f.wanted = 1;
    EXPECT(BACK, READY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_nothing_to_do, setup),
        cmocka_unit_test_setup(test_what_serves_is_given_its_number, setup),
        cmocka_unit_test_setup(test_download_then_wait_for_the_operator, setup),
        cmocka_unit_test_setup(test_other_promotions_meanwhile, setup),
        cmocka_unit_test_setup(test_requests_are_waited_for_so_long, setup),
        cmocka_unit_test_setup(test_restart_chooses_and_lets_it_serve_on, setup),
        cmocka_unit_test_setup(test_chosen_while_the_one_before_is_loaded, setup),
        cmocka_unit_test_setup(test_a_choice_that_waits_can_be_hurried_and_changed, setup),
        cmocka_unit_test_setup(test_a_trial_ends_one_way_or_the_other, setup),
        cmocka_unit_test_setup(test_restarts_of_before_the_trial_are_not_its_own, setup),
        cmocka_unit_test_setup(test_what_cannot_be_written_is_tried_again_later, setup),
        cmocka_unit_test_setup(test_a_suspension_proves_nothing, setup),
        cmocka_unit_test_setup(test_what_failed_waits_to_be_told, setup),
        cmocka_unit_test_setup(test_a_runtime_that_was_stopped_by_hand, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
